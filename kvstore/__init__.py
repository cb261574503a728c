"""A leaderless, quorum-replicated key-value store."""
