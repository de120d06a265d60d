"""The interfaces of other libraries, as faces on links and servers."""
