// Package monitoring tests the alert rules beside it.
package monitoring

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	root     = "../.."
	promtool = root + "/.tools/clients/usr/bin/promtool"
)

// TestRules has promtool check the rules and run their tests.
func TestRules(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(promtool); err != nil {
		t.Skip("missing: promtool (script/install-deps)")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "rules_test.yml"}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestMetricsExist looks for each metric that rules name in what the programs
// export.
func TestMetricsExist(t *testing.T) {
	t.Parallel()
	known := sources(t)
	text, err := os.ReadFile("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, name := range regexp.MustCompile(`\bdf(?:snapshotter|scheduler|manager)_[a-z_]+`).FindAllString(string(text), -1) {
		named[name] = true
	}
	named["dfsnapshotter_certificate_expiry_timestamp_seconds"] = true // by a pattern
	if len(named) < 12 {
		t.Errorf("only %d metrics are named", len(named))
	}
	for name := range named {
		if !exported(known, name) {
			t.Errorf("no program exports %s", name)
		}
	}
	if exported(known, "dfsnapshotter_no_such_total") {
		t.Error("a metric that does not exist is found")
	}
}

// exported reports whether the sources name a metric, as a whole or behind the
// program's name.
func exported(known map[string]bool, name string) bool {
	for _, suffix := range []string{"", "_bucket", "_count", "_sum"} {
		base, ok := strings.CutSuffix(name, suffix)
		_, part, _ := strings.Cut(base, "_")
		if ok && (known[base] || known["_"+part] || base == "dfscheduler_"+part && known[part]) {
			return true
		}
	}
	return false
}

// sources returns the strings in the programs' sources, tests aside.
func sources(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	literal := regexp.MustCompile(`"([a-z_]+)"`)
	for _, dir := range []string{"cmd", "fetcher", "fs", "p2p", "snapshot"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range literal.FindAllStringSubmatch(string(text), -1) {
				known[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return known
}
