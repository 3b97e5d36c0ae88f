package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMan holds that there is a page for each command, and what is in it.
func TestMan(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dir := t.TempDir()
	if out, err := run(t, "man", dir); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]string{
		"dfget.1": `\-\-recursive`, "dfget-doctor.1": `\-\-no\-pull`, "dfget-image-fetch.1": `\-\-namespace`, "dfget-cache-pin.1": "dfget cache pin DIGEST",
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		plain := strings.ReplaceAll(string(text), `\-`, "-")
		if err != nil || !strings.Contains(plain, strings.ReplaceAll(want, `\-`, "-")) || !strings.Contains(plain, "Nov 2023") {
			t.Errorf("%s: %v: %q is not in %.400s", name, err, want, plain)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "dfget-man.1")); err == nil {
		t.Error("there is a page for the command that makes them")
	}
}
