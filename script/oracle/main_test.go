package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	a, b, c := t.TempDir(), t.TempDir(), t.TempDir()
	for dir, text := range map[string]string{a: "same", b: "same", c: "else"} {
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{b, c} {
		for _, p := range []string{"file", "."} {
			i, err := os.Stat(filepath.Join(a, p))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(filepath.Join(dir, p), i.ModTime(), i.ModTime()); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		args []string
		code int
		out  string
	}{
		{[]string{a, b}, exitSame, ""},
		{[]string{a, c}, exitDiffer, "file: content at 0: sha256:"},
		{[]string{"-parallel", "2", "-rounds", "20", a, b}, exitSame, ""},
		{[]string{"-parallel", "2", "-rounds", "20", a, c}, exitDiffer, "file: content at"},
		{[]string{a}, exitError, ""},
		{[]string{"-unknown", a, b}, exitError, ""},
		{[]string{a, filepath.Join(b, "none")}, exitDiffer, ".: stat: ok, no such file"},
		{[]string{filepath.Join(a, "none"), filepath.Join(b, "none")}, exitError, ""},
	}
	for _, tt := range tests {
		var out, errOut bytes.Buffer
		if code := run(t.Context(), tt.args, &out, &errOut); code != tt.code || !strings.HasPrefix(out.String(), tt.out) {
			t.Errorf("oracle %q: exit %d, %q, %q; want %d, %q", tt.args, code, &out, &errOut, tt.code, tt.out)
		}
	}
}
