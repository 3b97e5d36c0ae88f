// Command images makes images from Debian packages and pushes them to a
// registry that speaks plain HTTP:
//
//	images -registry 127.0.0.1:5000 python:estargz python:gzip node
//
// A name without a form means all forms; no name means all images.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
)

func main() {
	registry := flag.String("registry", "", "host:port to push to; without it images are only made")
	root := flag.String("root", ".", "root folder of the project")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *root, *registry, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root, registry string, names []string) error {
	if len(names) == 0 {
		names = imagetest.Names()
	}
	for _, n := range names {
		name, form, one := strings.Cut(n, ":")
		forms := imagetest.Forms
		if one {
			forms = []imagetest.Form{imagetest.Form(form)}
		}
		for _, f := range forms {
			img, err := imagetest.Debian(ctx, root, name, f)
			if err != nil {
				return err
			}
			size, err := img.Size()
			if err != nil {
				return err
			}
			fmt.Printf("%s:%s %s %.1f MiB\n", name, f, img.Manifest.Digest, float64(size)/(1<<20))
			if registry == "" {
				continue
			}
			if err := img.Push(ctx, registry, name, string(f)); err != nil {
				return err
			}
		}
	}
	return nil
}
