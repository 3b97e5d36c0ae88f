package imagetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Image is an image in one form: its documents and blobs by digest.
type Image struct {
	Manifest ocispec.Descriptor
	Blobs    map[digest.Digest][]byte
}

// Make packs tars, lowest first, as an image. The last form counts for all
// layers that have none of their own.
func Make(config ocispec.ImageConfig, tars [][]byte, forms ...Form) (*Image, error) {
	blobs := make([]Blob, len(tars))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, t := range tars {
		g.Go(func() (err error) {
			blobs[i], err = Pack(t, forms[min(i, len(forms)-1)])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return Assemble(config, blobs)
}

// Assemble makes an image of packed layers, lowest first.
func Assemble(config ocispec.ImageConfig, layers []Blob) (*Image, error) {
	img := &Image{Blobs: map[digest.Digest][]byte{}}
	c := ocispec.Image{Created: &Epoch, Config: config}
	c.Architecture, c.OS = runtime.GOARCH, "linux"
	c.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		img.Blobs[l.Digest] = l.Data
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.DiffID)
		m.Layers = append(m.Layers, l.Descriptor)
	}
	var err error
	if m.Config, err = img.add(ocispec.MediaTypeImageConfig, c); err != nil {
		return nil, err
	}
	img.Manifest, err = img.add(ocispec.MediaTypeImageManifest, m)
	return img, err
}

func (img *Image) add(mediaType string, doc any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := digest.FromBytes(data)
	img.Blobs[d] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}, nil
}

// Layers returns the descriptors of the image's layers, lowest first.
func (img *Image) Layers() ([]ocispec.Descriptor, error) {
	var m ocispec.Manifest
	err := json.Unmarshal(img.Blobs[img.Manifest.Digest], &m)
	return m.Layers, err
}

// Size returns the bytes of all layers, each counted once.
func (img *Image) Size() (n int64, err error) {
	layers, err := img.Layers()
	seen := map[digest.Digest]bool{}
	for _, l := range layers {
		if !seen[l.Digest] {
			seen[l.Digest] = true
			n += l.Size
		}
	}
	return n, err
}

// Save writes the image as an OCI layout.
func (img *Image) Save(dir string) error {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	for d, data := range img.Blobs {
		if err := os.WriteFile(filepath.Join(blobs, d.Encoded()), data, 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{img.Manifest}})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), index, 0o644)
}

// Load reads what Save wrote. It returns an error that is fs.ErrNotExist if
// dir holds no whole image.
func Load(dir string) (*Image, error) {
	data, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("%s holds %d images: %w", dir, len(index.Manifests), fs.ErrNotExist)
	}
	img := &Image{Manifest: index.Manifests[0], Blobs: map[digest.Digest][]byte{}}
	files, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", f.Name()))
		if err != nil {
			return nil, err
		}
		img.Blobs[digest.NewDigestFromEncoded(digest.SHA256, f.Name())] = data
	}
	return img, nil
}

// Push puts the image into a registry that speaks plain HTTP at host and needs
// no credentials, as repo:tag.
func (img *Image) Push(ctx context.Context, host, repo, tag string) error {
	base := "http://" + host + "/v2/" + repo
	for d, data := range img.Blobs {
		if d == img.Manifest.Digest {
			continue
		}
		if err := pushBlob(ctx, base, d, data); err != nil {
			return fmt.Errorf("push %s of %s: %w", d, repo, err)
		}
	}
	_, err := send(ctx, http.MethodPut, base+"/manifests/"+tag, img.Manifest.MediaType, img.Blobs[img.Manifest.Digest], http.StatusCreated)
	return err
}

func pushBlob(ctx context.Context, base string, d digest.Digest, data []byte) error {
	if _, err := send(ctx, http.MethodHead, base+"/blobs/"+d.String(), "", nil, http.StatusOK); err == nil {
		return nil
	}
	h, err := send(ctx, http.MethodPost, base+"/blobs/uploads/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	root, err := url.Parse(base)
	if err != nil {
		return err
	}
	u, err := root.Parse(h.Get("Location"))
	if err != nil {
		return err
	}
	q := u.Query()
	q.Set("digest", d.String())
	u.RawQuery = q.Encode()
	_, err = send(ctx, http.MethodPut, u.String(), "application/octet-stream", data, http.StatusCreated)
	return err
}

func send(ctx context.Context, method, target, mediaType string, body []byte, want int) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	err = errors.Join(err, resp.Body.Close())
	if resp.StatusCode != want {
		return nil, fmt.Errorf("%s %s: %s: %.200s", method, target, resp.Status, answer)
	}
	return resp.Header, err
}
