package reference

import "embed"

// Schema holds the migrations of the tables that the catalogue's queries use.
//
//go:embed sql/*.sql
var Schema embed.FS
