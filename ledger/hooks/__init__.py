"""How others plug in: ports, hook specifications, and the façade that every call goes through."""
