"""The mechanism of muxlink: what runs, what is said, and what goes on the wire (map: ``actors/README.md``)."""
