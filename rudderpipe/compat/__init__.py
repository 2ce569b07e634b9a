"""Other SDKs' names and manners over rudderpipe, for applications that change over by changing an import."""
