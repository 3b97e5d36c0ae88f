package indexes

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const team, manifestText = "team/app", `{"schemaVersion":2}`

// beside is a registry with an image of one layer, and who looks there.
type beside struct {
	*testing.T
	reg   *origintest.Registry
	x     *Indexes
	layer indextest.Layer
	pack  []byte
	offer p2p.Index
	dir   string
}

func newBeside(t *testing.T, o origintest.Options) *beside {
	t.Helper()
	b := &beside{T: t, reg: origintest.New(t, o), dir: t.TempDir()}
	b.layer = indextest.Gzip(indextest.Tar(append(indextest.Nasty(), indextest.File("text", indextest.Text(1, 5<<20)))...), indextest.GzipOptions{Level: gzip.BestSpeed})
	b.reg.AddManifest(team, ocispec.MediaTypeImageManifest, []byte(manifestText))
	path := filepath.Join(b.dir, "made")
	if _, err := index.Build(t.Context(), path, bytes.NewReader(b.layer.Blob), index.Options{}); err != nil {
		t.Fatal(err)
	}
	i := b.open(path)
	var packed bytes.Buffer
	var err error
	if b.offer, err = Write(&packed, i); err != nil {
		t.Fatal(err)
	}
	b.pack = packed.Bytes()
	b.reg.AddBlob(team, b.pack)
	c, err := origin.New(origin.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	f, err := fetcher.New(fetcher.Config{Dir: filepath.Join(b.dir, "df"), Sources: []fetcher.Source{fetcher.Origin(c)}, Documents: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	b.x = b.indexes(f)
	return b
}

func (b *beside) indexes(f *fetcher.Fetcher) *Indexes {
	b.Helper()
	x, err := New(filepath.Join(b.dir, "index"), false, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		b.Fatal(err)
	}
	x.Start(f, Trust{Repos: func(r origin.Repo) bool { return r.Host == b.reg.Host() && strings.HasPrefix(r.Path, "team/") }})
	b.Cleanup(x.Close)
	return x
}

func (b *beside) open(path string) *index.Index {
	b.Helper()
	i, err := index.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = i.Close() })
	return i
}

func (b *beside) subject() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(manifestText), Size: int64(len(manifestText))}
}

// put puts an artifact beside the image, as a referrer and for readers of the tag.
func (b *beside) put(artifacts ...[]byte) {
	b.Helper()
	var list ocispec.Index
	for _, data := range artifacts {
		d := b.reg.AddManifest(team, ocispec.MediaTypeImageManifest, data)
		list.Manifests = append(list.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(data)), ArtifactType: ArtifactType})
	}
	data, err := json.Marshal(list)
	if err != nil {
		b.Fatal(err)
	}
	b.reg.Tag(team, origin.ReferrersTag(b.subject().Digest), b.reg.AddManifest(team, ocispec.MediaTypeImageIndex, data))
}

func (b *beside) artifact(found ...p2p.Index) []byte {
	b.Helper()
	data, err := Artifact(b.subject(), found)
	if err != nil {
		b.Fatal(err)
	}
	return data
}

func (b *beside) wanted() Wanted {
	return Wanted{
		Layer: b.layer.Digest, DiffID: b.layer.DiffID, Size: b.layer.Size(),
		Image: Image{Repo: origin.Repo{Host: b.reg.Host(), Path: team}, Manifest: b.subject().Digest},
	}
}

func (b *beside) find() (Pack, bool) {
	return b.x.Find(b.Context(), b.wanted(), filepath.Join(b.dir, "got"))
}

// TestRegistry: an index beside an image is found, by the referrers or by the
// tag; its windows are fetched with the data; a registry is asked once for all
// layers of an image.
func TestRegistry(t *testing.T) {
	for _, lists := range []bool{true, false} {
		b := newBeside(t, origintest.Options{Referrers: lists})
		later := b.offer
		later.Version++
		b.put(b.artifact(later), b.artifact(b.offer))
		p, ok := b.find()
		if !ok || p.From() != FromRegistry || p.Digest != b.offer.Pack.Digest {
			t.Fatalf("lists %v: found %v: %+v", lists, ok, p)
		}
		head := b.reg.Sent(p.Digest)
		if head > b.offer.Head || head >= p.Size/2 {
			t.Errorf("%d of %d bytes of the pack were sent before the first read; the head has %d", head, p.Size, b.offer.Head)
		}
		i := b.open(filepath.Join(b.dir, "got"))
		b.x.Windows(t.Context(), i, p)
		if err := index.Verify(t.Context(), i, bytes.NewReader(b.layer.Blob)); err != nil {
			t.Errorf("lists %v: %v", lists, err)
		}
		if sent := b.reg.Sent(p.Digest); sent <= head {
			t.Error("no window was fetched")
		}
		if _, ok := b.find(); !ok {
			t.Error("not found again")
		}
		if n := b.reg.Count("referrers"); n != 1 {
			t.Errorf("%d questions", n)
		}
		elsewhere := b.wanted()
		elsewhere.Image.Repo.Path = "teams/app"
		for _, w := range []Wanted{elsewhere, {Layer: b.layer.Digest, DiffID: b.layer.DiffID, Size: b.layer.Size()}} {
			if p, ok := b.x.Find(t.Context(), w, filepath.Join(b.dir, "got")); ok || b.reg.Count("referrers") != 1 {
				t.Errorf("asked for %+v: %v, %+v", w.Image, ok, p)
			}
		}
	}
}

// TestWindowsLater: windows that no host has at the moment are waited for.
func TestWindowsLater(t *testing.T) {
	b := newBeside(t, origintest.Options{})
	p := Pack{Digest: b.offer.Pack.Digest, Size: b.offer.Pack.Size}
	head, err := index.ParseHead(b.pack, p.Size)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.dir, "got")
	if err := index.Unpack(path, head, bytes.NewReader(b.pack[index.PackPrefix:b.offer.Head])); err != nil {
		t.Fatal(err)
	}
	i := b.open(path)
	b.x.Windows(t.Context(), i, p)
	kept := make(chan error, 1)
	time.AfterFunc(2*lookAgain, func() { kept <- b.x.fetcher.Keep(p.Digest, p.Size, bytes.NewReader(b.pack)) })
	if err := index.Verify(t.Context(), i, bytes.NewReader(b.layer.Blob)); err != nil {
		t.Error(err)
	}
	if err := <-kept; err != nil {
		t.Error(err)
	}
}

// TestBadArtifacts: what lies beside an image and is not what it should be leaves
// the layer without an index, and nothing else happens.
func TestBadArtifacts(t *testing.T) {
	good := func(b *beside) p2p.Index { return b.offer }
	change := func(f func(*p2p.Index)) func(b *beside) [][]byte {
		return func(b *beside) [][]byte {
			x := good(b)
			f(&x)
			return [][]byte{b.artifact(x)}
		}
	}
	edit := func(from, to string) func(b *beside) [][]byte {
		return func(b *beside) [][]byte {
			old := b.artifact(good(b))
			out := bytes.ReplaceAll(old, []byte(from), []byte(to))
			if bytes.Equal(old, out) {
				b.Fatalf("%q is not there", from)
			}
			return [][]byte{out}
		}
	}
	other := digest.FromString("other")
	for name, make := range map[string]func(b *beside) [][]byte{
		"nothing":         func(*beside) [][]byte { return nil },
		"no JSON":         func(*beside) [][]byte { return [][]byte{[]byte("<html>")} },
		"null":            func(*beside) [][]byte { return [][]byte{[]byte("null"), []byte(`{"layers":[null]}`)} },
		"other subject":   edit(digest.FromString(manifestText).String(), other.String()),
		"other type":      edit(ArtifactType, "application/x"),
		"other pack type": edit(PackType, "application/x"),
		"no number":       edit(`index.head":"`, `index.head":"x`),
		"negative head":   change(func(x *p2p.Index) { x.Head = -1 }),
		"head of nothing": change(func(x *p2p.Index) { x.Head = 1 }),
		"head too short":  change(func(x *p2p.Index) { x.Head-- }),
		"head too long":   change(func(x *p2p.Index) { x.Head = x.Pack.Size }),
		"head of a TiB":   change(func(x *p2p.Index) { x.Pack.Size, x.Head = 1<<40, 1<<40 }),
		"pack is missing": change(func(x *p2p.Index) { x.Pack.Digest = other }),
		"other layer":     change(func(x *p2p.Index) { x.Layer = other }),
		"other diffID":    change(func(x *p2p.Index) { x.DiffID = other }),
		"other index":     change(func(x *p2p.Index) { x.ID = other }),
		"other version":   change(func(x *p2p.Index) { x.Version++ }),
		"pack is no pack": change(func(x *p2p.Index) {
			x.Pack = p2p.Blob{Digest: digest.FromString(manifestText), Size: int64(len(manifestText))}
			x.Head = 5
		}),
		"artifact is long": func(b *beside) [][]byte {
			return [][]byte{append(b.artifact(good(b)), bytes.Repeat([]byte(" "), 4<<20)...)}
		},
		"too many": func(b *beside) (all [][]byte) {
			for i := range maxArtifacts {
				all = append(all, []byte(fmt.Sprintf(`{"n":%d}`, i)))
			}
			return append(all, b.artifact(good(b)))
		},
		"a byte is wrong": func(b *beside) [][]byte {
			bad := bytes.Clone(b.pack)
			bad[b.offer.Head/2] ^= 1
			b.reg.AddBlob(team, bad)
			x := good(b)
			x.Pack.Digest = digest.FromBytes(bad)
			return [][]byte{b.artifact(x)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBeside(t, origintest.Options{})
			b.put(make(b)...)
			began := time.Now()
			if p, ok := b.find(); ok {
				t.Errorf("found %+v", p)
			}
			if took := time.Since(began); took > headWithin {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestBadThenGood: an index that cannot be used does not hide the next one.
func TestBadThenGood(t *testing.T) {
	b := newBeside(t, origintest.Options{})
	bad := b.offer
	bad.Pack.Digest = digest.FromString("missing")
	b.put([]byte("<html>"), b.artifact(bad), b.artifact(b.offer))
	if p, ok := b.find(); !ok || p.Digest != b.offer.Pack.Digest {
		t.Errorf("found %v: %+v", ok, p)
	}
}

// TestSlowRegistry: a registry that is slow to answer is not waited for, but
// heard when it does; one that fails is asked again.
func TestSlowRegistry(t *testing.T) {
	b := newBeside(t, origintest.Options{})
	b.put(b.artifact(b.offer))
	b.reg.Fail("", origintest.Fault{Hang: true})
	began := time.Now()
	if _, ok := b.find(); ok {
		t.Fatal("found while the registry says nothing")
	}
	if took := time.Since(began); took > waitForIt+2*time.Second {
		t.Errorf("it was waited for for %v", took)
	}
	time.AfterFunc(50*time.Millisecond, b.reg.Heal)
	if p, ok := b.x.Await(t.Context(), b.wanted(), filepath.Join(b.dir, "got")); !ok || p.From() != FromRegistry {
		t.Errorf("not found when it answers: %+v", p)
	}
	if _, ok := b.x.Await(t.Context(), Wanted{Layer: b.layer.Digest}, filepath.Join(b.dir, "got")); ok {
		t.Error("found what nobody was asked for")
	}
}

// TestFalse: an index that was found false is not used again, nor after a restart.
func TestFalse(t *testing.T) {
	b := newBeside(t, origintest.Options{})
	b.put(b.artifact(b.offer))
	if _, ok := b.find(); !ok {
		t.Fatal("not found")
	}
	b.x.False(b.layer.Digest, b.offer.ID, "it lies", nil)
	if _, ok := b.find(); ok {
		t.Error("a false index is used again")
	}
	b.x.Close()
	b.x = b.indexes(b.x.fetcher)
	if _, ok := b.find(); ok {
		t.Error("a false index is used again after a restart")
	}
	if reason, is := b.x.IsFalse(b.offer.ID); !is || reason != "it lies" {
		t.Errorf("false: %v, %q", is, reason)
	}
}

// TestArtifact: the same indexes give the same bytes, and those the indexes.
func TestArtifact(t *testing.T) {
	d := digest.FromString
	found := []p2p.Index{
		{Layer: d("a"), Version: 1, ID: d("b"), DiffID: d("c"), Head: 5, Pack: p2p.Blob{Digest: d("d"), Size: 9}},
		{Layer: d("e"), Version: 2, ID: d("f"), DiffID: d("g"), Head: 9, Pack: p2p.Blob{Digest: d("h"), Size: 9}},
	}
	subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d("image"), Size: 5}
	data, err := Artifact(subject, found)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseArtifact(data, d("image"))
	if diff := cmp.Diff(found, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil || m.Config.Digest != digest.FromString("{}") || m.Config.Size != 2 {
		t.Errorf("config %+v: %v", m.Config, err)
	}
}

func FuzzParseArtifact(f *testing.F) {
	d := digest.FromString
	data, err := Artifact(ocispec.Descriptor{Digest: d("image")}, []p2p.Index{{Layer: d("a"), Version: 1, ID: d("b"), DiffID: d("c"), Head: 5, Pack: p2p.Blob{Digest: d("d"), Size: 9}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		found, _ := ParseArtifact(data, d("image"))
		for _, x := range found {
			if err := x.Validate(); err != nil {
				t.Error(err)
			}
		}
	})
}
