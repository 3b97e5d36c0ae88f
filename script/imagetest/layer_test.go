package imagetest

import (
	"archive/tar"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTidy holds that a layer has each path once, however often it is tidied: Docker
// refuses one that has not.
func TestTidy(t *testing.T) {
	t.Parallel()
	dir := func(name string) File {
		return File{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
	}
	layer := Layer{dir("./"), dir("dev"), dir("usr/"), Regular("usr/a", 0o644, nil), Dir("dev", 0o700), dir("usr"), Regular("usr/a", 0o600, nil)}
	for range 2 {
		layer = layer.tidy()
		var names []string
		for _, f := range layer {
			names = append(names, f.Name)
		}
		if diff := cmp.Diff([]string{"dev/", "usr/", "usr/a"}, names); diff != "" {
			t.Error(diff)
		}
	}
	if layer[0].Mode != 0o755 || layer[2].Mode != 0o600 {
		t.Errorf("of directories the first counts, of files the last: %o, %o", layer[0].Mode, layer[2].Mode)
	}
}
