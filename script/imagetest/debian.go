package imagetest

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// debLayer is a layer made of Debian packages and what they depend on, less
// what the layers below hold.
type debLayer struct {
	packages []string
	files    []File
	setup    string // run by the shell in the image's root; the files it makes belong to this layer
}

// recipe is an image made of Debian packages.
type recipe struct {
	layers []debLayer
	config ocispec.ImageConfig
}

// Debian returns the image of the recipe called name in one form. root is the
// project's root, below which (.tools/cache) downloads and images are kept.
func Debian(ctx context.Context, root, name string, form Form) (*Image, error) {
	r, ok := recipes[name]
	if !ok {
		return nil, fmt.Errorf("no recipe for image %q", name)
	}
	debs, err := r.download(ctx, root)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	key, err := r.key(debs)
	if err != nil {
		return nil, err
	}
	return Cached(root, fmt.Sprintf("%s-%s-%s", name, form, key), func() (*Image, error) {
		tars, err := r.tars(ctx, filepath.Join(root, cache, "layers", name+"-"+key), debs)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		return Make(r.config, tars, form)
	})
}

// cache is below the project's root.
const cache = ".tools/cache"

// Cached returns the image that build makes, from the cache below the project's
// root if an earlier run has made it. key names all that goes into it.
func Cached(root, key string, build func() (*Image, error)) (*Image, error) {
	dir := filepath.Join(root, cache, "images", key)
	if img, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		return img, err
	}
	img, err := build()
	if err != nil {
		return nil, err
	}
	return img, img.saveWhole(dir)
}

// saveWhole saves so that dir is whole or absent.
func (img *Image) saveWhole(dir string) error {
	tmp := dir + ".tmp"
	if err := errors.Join(os.RemoveAll(tmp), img.Save(tmp)); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// key names what the image is made from: packages with their versions, and the
// recipe itself.
func (r recipe) key(debs [][]string) (string, error) {
	// The number counts changes of how layers are made.
	parts := []any{4, r.config}
	for i, l := range r.layers {
		files, err := Layer(l.files).Tar()
		if err != nil {
			return "", err
		}
		parts = append(parts, digest.FromBytes(files), l.setup)
		for _, f := range debs[i] {
			parts = append(parts, filepath.Base(f))
		}
	}
	text, err := json.Marshal(parts)
	return digest.FromBytes(text).Encoded()[:12], err
}

// download fetches the packages and returns the files for each layer.
func (r recipe) download(ctx context.Context, root string) ([][]string, error) {
	var all []string
	var debs [][]string
	have := map[string]bool{}
	for _, l := range r.layers {
		all = append(all, l.packages...)
		cmd := exec.CommandContext(ctx, filepath.Join(root, "script", "debs"), all...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("script/debs: %w", err)
		}
		var mine []string
		for _, f := range strings.Fields(string(out)) {
			if !have[f] {
				have[f] = true
				mine = append(mine, f)
			}
		}
		debs = append(debs, mine)
	}
	return debs, nil
}

// tars returns the tars of all layers, from the cache folder where it has them.
func (r recipe) tars(ctx context.Context, cache string, debs [][]string) ([][]byte, error) {
	file := func(i int) string { return filepath.Join(cache, fmt.Sprintf("%d.tar", i)) }
	tars := make([][]byte, len(r.layers))
	missing := false
	for i := range tars {
		var err error
		if tars[i], err = os.ReadFile(file(i)); err != nil {
			missing = true
		}
	}
	if !missing {
		return tars, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	rootfs, err := os.MkdirTemp("", "imagetest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(rootfs)
	known := map[string]bool{}
	for i, l := range r.layers {
		layer, err := l.entries(ctx, debs[i], rootfs, known)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		if tars[i], err = layer.Tar(); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file(i), tars[i], 0o644); err != nil {
			return nil, err
		}
	}
	return tars, nil
}

// entries returns a layer and unpacks it over rootfs. known are the names of
// all layers so far.
func (l debLayer) entries(ctx context.Context, debs []string, rootfs string, known map[string]bool) (Layer, error) {
	var layer Layer
	for _, deb := range debs {
		entries, err := unpack(ctx, deb)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(deb), err)
		}
		layer = append(layer, entries...)
	}
	layer = append(layer, l.files...).tidy()
	for _, f := range layer {
		known[strings.TrimSuffix(f.Name, "/")] = true
	}
	data, err := layer.Tar()
	if err != nil {
		return nil, err
	}
	untar := exec.CommandContext(ctx, "tar", "-x", "-p", "--numeric-owner", "--keep-directory-symlink", "-C", rootfs)
	untar.Stdin = strings.NewReader(string(data))
	if out, err := untar.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("tar: %w: %s", err, out)
	}
	if l.setup == "" {
		return layer, nil
	}
	setup := exec.CommandContext(ctx, "/bin/sh", "-ec", l.setup)
	setup.SysProcAttr = &syscall.SysProcAttr{Chroot: rootfs}
	setup.Dir, setup.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	if out, err := setup.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("setup: %w: %s", err, out)
	}
	made, err := walkNew(rootfs, known)
	return append(layer, made...).tidy(), err
}

func unpack(ctx context.Context, deb string) (Layer, error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l, err := readTar(out)
	return l, errors.Join(err, cmd.Wait())
}

// walkNew returns the entries below rootfs that are not known, with the time of
// Epoch, and adds them to known.
func walkNew(rootfs string, known map[string]bool) (Layer, error) {
	var l Layer
	err := filepath.WalkDir(rootfs, func(p string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(rootfs, p)
		if err != nil || known[name] || name == "." {
			return err
		}
		known[name] = true
		info, err := d.Info()
		if err != nil {
			return err
		}
		var target string
		if info.Mode()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(p); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		f := File{Header: *h}
		f.Name, f.ModTime, f.Uname, f.Gname = name, Epoch, "", ""
		if f.Typeflag == tar.TypeReg {
			f.Data, err = os.ReadFile(p)
		}
		l = append(l, f)
		return err
	})
	return l, err
}

// Names returns the images that Debian makes.
func Names() []string {
	var names []string
	for n := range recipes {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
