package origin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

// hostsFiles is what configures one registry below a hosts.toml tree.
type hostsFiles struct {
	dir    string // "" if there is none
	print  string // changes when a file does that the configuration is read from
	broken error  // why hosts.toml cannot be parsed
}

// findHosts looks for the configuration of a registry.
func findHosts(root, name string) (f hostsFiles, err error) {
	if root == "" {
		return f, nil
	}
	f.dir, err = config.HostDirFromRoot(root)(name)
	if errdefs.IsNotFound(err) {
		return hostsFiles{}, nil
	}
	if err != nil {
		return f, err
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return f, err
	}
	var b strings.Builder
	for _, e := range entries {
		stamp(&b, filepath.Join(f.dir, e.Name()))
	}
	var named []string
	named, f.broken = namedFiles(f.dir)
	for _, file := range named {
		stamp(&b, file)
	}
	f.print = b.String()
	return f, nil
}

// stamp adds what changes when a file does.
func stamp(b *strings.Builder, file string) {
	fi, err := os.Stat(file)
	if err != nil {
		fmt.Fprintf(b, "%s: none\n", file)
		return
	}
	fmt.Fprintf(b, "%s: %d %d\n", file, fi.Size(), fi.ModTime().UnixNano())
}

// namedFiles returns the certificate and key files that a hosts.toml names.
func namedFiles(dir string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "hosts.toml"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	if err := toml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	files := slices.Concat(texts(doc["ca"]), texts(doc["client"]))
	if hosts, ok := doc["host"].(map[string]any); ok {
		for _, h := range hosts {
			if h, ok := h.(map[string]any); ok {
				files = slices.Concat(files, texts(h["ca"]), texts(h["client"]))
			}
		}
	}
	for i, f := range files {
		if !filepath.IsAbs(f) {
			files[i] = filepath.Join(dir, f)
		}
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

// texts returns the strings in a TOML value, at any depth of arrays.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, e := range v {
			out = append(out, texts(e)...)
		}
		return out
	}
	return nil
}
