// Package imagetest makes real container images for tests, benchmarks and the
// demo: from Debian packages or from lists of files, in the layer forms that
// registries hold, without docker. Equal input gives equal images.
package imagetest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// Epoch is the time of everything that has none of its own.
var Epoch = time.Unix(1700000000, 0)

// File is one entry of a layer.
type File struct {
	tar.Header
	Data []byte
}

// Layer is a layer's entries in the order they have in the tar.
type Layer []File

// Dir returns a folder of root.
func Dir(name string, mode int64) File {
	return File{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: Epoch}}
}

// Regular returns a file of root.
func Regular(name string, mode int64, data []byte) File {
	return File{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: Epoch}, Data: data}
}

// Symlink returns a symbolic link.
func Symlink(name, target string) File {
	return File{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: Epoch}}
}

// Tar returns the layer as a tar.
func (l Layer) Tar() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range l {
		h := f.Header
		if h.Format == tar.FormatUnknown && h.ModTime.Nanosecond() != 0 {
			h.Format = tar.FormatPAX // else the writer rounds to seconds
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("layer entry %s: %w", h.Name, err)
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, fmt.Errorf("layer entry %s: %w", h.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// readTar returns the entries of a package's tar under usr-merged names, less
// the documentation.
func readTar(r io.Reader) (Layer, error) {
	var l Layer
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return l, nil
		} else if err != nil {
			return nil, err
		}
		f := File{Header: *h}
		if strings.HasPrefix(f.Name, "./usr/share/doc/") {
			continue // as most published images do
		}
		f.Uname, f.Gname, f.Format, f.PAXRecords = "", "", tar.FormatUnknown, nil
		f.Name = usrMerge(h.Name)
		if h.Typeflag == tar.TypeLink {
			f.Linkname = usrMerge(h.Linkname)
		}
		if h.Typeflag == tar.TypeReg {
			if f.Data, err = io.ReadAll(tr); err != nil {
				return nil, err
			}
		}
		l = append(l, f)
	}
}

// usrMerge cleans a name and moves it below usr if Debian 12 has it there.
func usrMerge(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, _, _ := strings.Cut(name, "/")
	switch first {
	case "bin", "sbin", "lib", "lib32", "lib64", "libx32":
		return "usr/" + name
	}
	return name
}

// tidy drops the root and repeated names (the first folder and the last file
// count) and orders the entries as a walk finds them, links after what they
// point to.
func (l Layer) tidy() Layer {
	at := map[string]int{}
	var out Layer
	for _, f := range l {
		f.Name = strings.TrimSuffix(f.Name, "/")
		if f.Name == "" || f.Name == "." {
			continue
		}
		i, seen := at[f.Name]
		switch {
		case !seen:
			at[f.Name] = len(out)
			out = append(out, f)
		case f.Typeflag != tar.TypeDir:
			out[i] = f
		}
	}
	slices.SortStableFunc(out, func(a, b File) int {
		if la, lb := a.Typeflag == tar.TypeLink, b.Typeflag == tar.TypeLink; la != lb {
			if la {
				return 1
			}
			return -1
		}
		return slices.Compare(strings.Split(a.Name, "/"), strings.Split(b.Name, "/"))
	})
	for i := range out {
		if out[i].Typeflag == tar.TypeDir {
			out[i].Name += "/"
		}
	}
	return out
}
