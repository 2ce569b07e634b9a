"""The examination of a pipe, its host and its servers: numbered checks, each with a finding and a way to mend it."""
