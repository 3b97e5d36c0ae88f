package daemon

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// HostID is this machine's name with a random part that tells two of one name
// apart and is kept in dir.
func HostID(dir string) (p2p.HostID, error) {
	part, err := randomPart(filepath.Join(dir, "host-id"))
	if err != nil {
		return "", fmt.Errorf("host ID: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		name = "host"
	}
	name = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '-'
		}
		return r
	}, name)
	return p2p.HostID(name[:min(len(name), 64)] + "-" + part), nil
}

// randomPart returns what is in the file, or makes it.
func randomPart(path string) (string, error) {
	text, err := os.ReadFile(path)
	if part := strings.TrimSpace(string(text)); err == nil && len(part) == 16 && p2p.HostID(part).Validate() == nil {
		return part, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	part := hex.EncodeToString(b[:])
	next := path + ".new"
	if err := os.WriteFile(next, []byte(part+"\n"), 0o600); err != nil {
		return "", err
	}
	return part, os.Rename(next, path)
}
