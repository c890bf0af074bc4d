// Package migrate contains the programs of docs/migrate, which show how servers of other libraries are
// ported. Each folder has the original, the port, and a test that runs one client against both. It is a
// module of its own, so that the engine does not depend on those libraries.
package migrate
