package imagetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Program returns a static binary of a folder of testdata: pause, goprog, sum or
// cprog. root is the project's root.
func Program(ctx context.Context, root, name string) ([]byte, error) {
	src := filepath.Join(root, "script/imagetest/testdata", name)
	dir, err := os.MkdirTemp("", "imagetest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin, src+"/main.go")
	if _, err := os.Stat(filepath.Join(src, "main.c")); err == nil {
		cmd = exec.CommandContext(ctx, "gcc", "-O2", "-Wall", "-Werror", "-static", "-o", bin, filepath.Join(src, "main.c"))
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return os.ReadFile(bin)
}

// Pause returns the image of pod sandboxes: one program and nothing else.
func Pause(ctx context.Context, root string) (*Image, error) {
	bin, err := Program(ctx, root, "pause")
	if err != nil {
		return nil, err
	}
	tar, err := Layer{Regular("pause", 0o755, bin)}.Tar()
	if err != nil {
		return nil, err
	}
	return Make(ocispec.ImageConfig{Entrypoint: []string{"/pause"}}, [][]byte{tar}, Gzip)
}
