"""Tools for programs that speak the Model Context Protocol: https://modelcontextprotocol.io."""
