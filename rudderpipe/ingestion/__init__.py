"""The reading of files, in any format and compression, as blocks of records; see docs/ingestion.md."""
