"""Who may do what: certificates, identities and the casbin policy."""
