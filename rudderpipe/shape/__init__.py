"""What an application changes in its events, or leaves out, before they are accepted."""
