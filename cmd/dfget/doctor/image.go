package doctor

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	repository = "dfget/doctor"
	fileName   = "dfget-doctor"
)

// testImage is an image that nobody has seen before, in a registry on this host that
// has nothing else.
type testImage struct {
	name    string // full
	content string // of its only file
	server  *http.Server
	blobs   map[digest.Digest]served
	tag     digest.Digest
}

// served is a document or blob.
type served struct {
	mediaType string
	data      []byte
}

// serveImage makes a test image and serves it until Close.
func serveImage() (*testImage, error) {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // it never fails
	i := &testImage{content: "dfget doctor " + hex.EncodeToString(random) + "\n", blobs: map[digest.Digest]served{}}
	if err := i.make(); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i.name = ln.Addr().String() + "/" + repository + ":" + hex.EncodeToString(random[:4])
	i.server = &http.Server{Handler: i, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = i.server.Serve(ln) }() // until Close
	return i, nil
}

func (i *testImage) Close() error { return i.server.Close() }

// add keeps a document or blob, and returns what names it.
func (i *testImage) add(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	i.blobs[d] = served{mediaType, data}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// make makes the image: one layer with one file.
func (i *testImage) make() error {
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	if err := w.WriteHeader(&tar.Header{Name: fileName, Mode: 0o644, Size: int64(len(i.content)), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	if _, err := w.Write([]byte(i.content)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(plain.Bytes()); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	layer := i.add(ocispec.MediaTypeImageLayerGzip, packed.Bytes())
	config, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain.Bytes())}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: i.add(ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{layer},
	})
	if err != nil {
		return err
	}
	i.tag = i.add(ocispec.MediaTypeImageManifest, manifest).Digest
	return nil
}

// ServeHTTP is the registry.
func (i *testImage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, "/v2/"+repository+"/")
	if r.URL.Path == "/v2/" {
		return
	}
	_, ref, _ := strings.Cut(name, "/") // behind manifests or blobs
	d := digest.Digest(ref)
	if strings.HasPrefix(name, "manifests/") && !strings.Contains(ref, ":") {
		d = i.tag
	}
	b, found := i.blobs[d]
	if !ok || !found {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, `{"errors":[{"code":"NAME_UNKNOWN","message":"this registry has one image only"}]}`)
		return
	}
	w.Header().Set("Content-Type", b.mediaType)
	w.Header().Set("Docker-Content-Digest", string(d))
	w.Header().Set("ETag", strconv.Quote(string(d)))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b.data))
}
