// Package systemd holds the units, for who installs them.
package systemd

import "embed"

// Units are the files of this folder, by name.
//
//go:embed *.service
var Units embed.FS
