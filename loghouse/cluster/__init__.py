"""Who is a member, where everybody is, and which frame goes to whom."""
