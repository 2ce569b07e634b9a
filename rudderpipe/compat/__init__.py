"""The interfaces of other SDKs, for applications that change to rudderpipe by changing an import."""
