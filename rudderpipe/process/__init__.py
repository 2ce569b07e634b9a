"""Facts about processes and what they share with the system: clock, forks, locks, identity, starting another."""
