"""The conformance kit: one ``Base…Tests`` class for each port. Subclass it, provide the fixture, run pytest."""
