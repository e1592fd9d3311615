"""Membership by SWIM with Lifeguard: messages and ticks in, work out."""
