// Package debian tests the archive and the Debian packages that script/packages makes.
package debian

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
)

const (
	root    = "../.."
	version = "v1.2.3-rc.1-4-gabcdef0"
	date    = 1700000000
)

// TestPackages makes the packages of this tree twice, in different places, looks into
// them and installs them.
func TestPackages(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("missing: dpkg-deb")
	}
	dir := t.TempDir()
	var g errgroup.Group
	g.Go(func() error { return makeIn(dir+"/a", "HOME="+dir, "TZ=UTC", "umask 022") })
	g.Go(func() error {
		return makeIn(dir+"/b/in another folder", "HOME=/nonexistent", "TZ=Asia/Tokyo", "umask 077")
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	first, second := dir+"/a/out", dir+"/b/in another folder/out"
	if diff := cmp.Diff(sums(t, first), sums(t, second)); diff != "" {
		t.Errorf("the same tree gave other bytes:\n%s", diff)
	}
	t.Run("archive", func(t *testing.T) {
		t.Parallel()
		archive(t, filepath.Join(first, fmt.Sprintf("dfsnapshotter-%s-linux-%s.tar.gz", version, runtime.GOARCH)))
	})
	t.Run("install", func(t *testing.T) {
		t.Parallel()
		install(t, first)
	})
}

// makeIn makes packages of a copy of this tree.
func makeIn(dir, home, zone, umask string) error {
	caches, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		return err
	}
	cache, modules, _ := strings.Cut(strings.TrimSpace(string(caches)), "\n")
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", umask+`
		mkdir -p "$1"
		git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x --no-same-permissions -C "$1"
		"$1/script/packages" "$1/out" "$2"`, "", dir, runtime.GOARCH)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOCACHE="+cache, "GOMODCACHE="+modules, home, zone, "VERSION="+version, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", date))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// sums returns the digests of the files in a folder, by name.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 4 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[f.Name()] = fmt.Sprintf("%x", sha256.Sum256(text))
	}
	return all
}

// archive looks at what is in an archive, and at whose it is.
func archive(t *testing.T, path string) {
	gunzip := exec.Command("gzip", "-dc", path) // the race detector makes Go's slow
	text, err := gunzip.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, gunzip)
	seen := map[string]int64{}
	for r := tar.NewReader(text); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		top, name, _ := strings.Cut(h.Name, "/")
		seen[name] = h.Mode
		if top != strings.TrimSuffix(filepath.Base(path), ".tar.gz") || h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != date ||
			h.Mode&^0o111 != 0o644 || h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
			t.Errorf("%+v", h)
		}
		if strings.HasSuffix(name, ".go") || strings.HasPrefix(name, "deploy/debian") {
			t.Errorf("%s is nobody's who installs", name)
		}
	}
	for name, mode := range map[string]int64{
		"bin/dfsnapshotter": 0o755, "bin/dfget": 0o755, "bin/dfscheduler": 0o755, "bin/dfmanager": 0o755,
		"LICENSE": 0o644, "LICENSES-OF-OTHERS": 0o644, "README.md": 0o644, ".dockerignore": 0o644, "docs/quick-start.md": 0o644,
		"deploy/systemd/dfsnapshotter-keeper.service": 0o644, "deploy/compose/docker-compose.yml": 0o644,
		"deploy/helm/dfsnapshotter/files/alerts.yml": 0o644, "examples/dfsnapshotter.toml": 0o644,
		"man/dfget.1": 0o644, "man/dfsnapshotter-install.8": 0o644, "completions/dfmanager.zsh": 0o644,
	} {
		if seen[name] != mode {
			t.Errorf("%s has mode %o, not %o", name, seen[name], mode)
		}
	}
}

// TestSBOM looks at what the bill of materials says of the program and of modules.
func TestSBOM(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(root + "/.tools/bin/cyclonedx-gomod"); err != nil {
		t.Skip("missing: .tools/bin/cyclonedx-gomod (script/install-deps)")
	}
	path := filepath.Join(t.TempDir(), "sbom.json")
	cmd := exec.Command(root+"/script/sbom", path)
	cmd.Env = append(os.Environ(), "VERSION="+version, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", date))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	type component struct {
		Name, Version, PURL string
		Evidence            struct{ Licenses []any }
	}
	var bom struct {
		BOMFormat, SpecVersion string
		Metadata               struct {
			Timestamp string
			Component component
		}
		Components []component
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	const module = "github.com/dfsnapshotter/dfsnapshotter"
	main := bom.Metadata.Component
	if bom.BOMFormat != "CycloneDX" || bom.SpecVersion != "1.6" || bom.Metadata.Timestamp != "2023-11-14T22:13:20Z" ||
		main.Name != module || main.Version != version || !strings.HasPrefix(main.PURL, "pkg:golang/"+module+"@"+version+"?") {
		t.Errorf("it is of %+v", bom.Metadata)
	}
	licensed := map[string]bool{}
	for _, c := range bom.Components {
		licensed[c.Name] = len(c.Evidence.Licenses) > 0
	}
	if !licensed["github.com/hanwen/go-fuse/v2"] || !licensed["github.com/spf13/cobra"] {
		t.Error("licences are missing")
	}
	if _, ok := licensed["std"]; !ok {
		t.Error("Go's library is missing")
	}
	if _, ok := licensed["github.com/google/go-cmp"]; ok {
		t.Error("it has what only tests need")
	}
}
