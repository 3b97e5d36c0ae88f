package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index/indextest"
	"github.com/dfsnapshotter/dfsnapshotter/fs/indexes"
)

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

const team = "team/app"

var alice = map[string]string{"alice": "secret"}

// shop is a registry with an image of a large and a small layer, and an agent's
// root in which nothing is.
type shop struct {
	*testing.T
	reg      *origintest.Registry
	large    indextest.Layer
	manifest digest.Digest
	size     int
	root     string
	docker   string
}

func newShop(t *testing.T, o origintest.Options) *shop {
	t.Helper()
	s := &shop{T: t, reg: origintest.New(t, o), root: t.TempDir()}
	s.large = indextest.Gzip(indextest.Tar(indextest.File("random", indextest.Random(1, 5<<20)), indextest.File("text", indextest.Text(1, 2<<20))), indextest.GzipOptions{})
	s.manifest = s.add("v1", s.large, indextest.Gzip(indextest.Tar(indextest.File("small", nil)), indextest.GzipOptions{}))
	s.docker = filepath.Join(s.root, "config.json")
	auth := base64.StdEncoding.EncodeToString([]byte("alice:secret"))
	s.must(os.WriteFile(s.docker, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, s.reg.Host(), auth), 0o600))
	return s
}

func (s *shop) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// add puts an image of layers, the first one twice, into the registry.
func (s *shop) add(tag string, layers ...indextest.Layer) digest.Digest {
	s.Helper()
	var config ocispec.Image
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range append(layers, layers[0]) {
		s.reg.AddBlob(team, l.Blob)
		m.Layers = append(m.Layers, l.Descriptor())
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
	}
	data, err := json.Marshal(config)
	s.must(err)
	m.Config.Digest = s.reg.AddBlob(team, data)
	data, err = json.Marshal(m)
	s.must(err)
	s.size = len(data)
	d := s.reg.AddManifest(team, ocispec.MediaTypeImageManifest, data)
	s.reg.Tag(team, tag, d)
	return d
}

// index runs dfget index.
func (s *shop) index(args ...string) (string, error) {
	s.Helper()
	args = append([]string{"index"}, args...)
	args = append(args, "--docker-config", s.docker, "--hosts-dir", "", "--plain-http")
	if args[1] == "push" {
		args = append(args, "--root", s.root)
	}
	return run(s.T, args...)
}

func (s *shop) name(tag string) string { return s.reg.Host() + "/" + team + ":" + tag }

// writes counts the requests that wrote something.
func (s *shop) writes() (n int) {
	for _, q := range s.reg.Requests() {
		if q.Method != http.MethodGet && q.Method != http.MethodHead && q.Status < 300 && q.Kind != "token" {
			n++
		}
	}
	return n
}

// check opens what lies beside the image as a node does, and reads by it.
func (s *shop) check() {
	s.Helper()
	c, err := origin.New(origin.Config{Credentials: origin.NewDockerConfig(s.docker)})
	s.must(err)
	defer c.Close()
	repo := origin.Repo{Host: s.reg.Host(), Path: team}
	there, err := besides(s.Context(), c, repo, s.manifest)
	s.must(err)
	if len(there) != 1 || there[0].Layer != s.large.Digest || there[0].DiffID != s.large.DiffID {
		s.Fatalf("beside the image lies %+v", there)
	}
	pack, _, err := c.Document(s.Context(), repo, there[0].Pack.Digest, false, 1<<30)
	s.must(err)
	h, err := index.ParseHead(pack, int64(len(pack)))
	s.must(err)
	path := filepath.Join(s.TempDir(), "index")
	s.must(index.Unpack(path, h, bytes.NewReader(pack[index.PackPrefix:there[0].Head])))
	x, err := index.Open(path)
	s.must(err)
	defer func() { _ = x.Close() }()
	x.Lazy(int64(len(pack)), func(off, n int64) ([]byte, error) { return pack[off:][:n], nil })
	if err := index.Verify(s.Context(), x, bytes.NewReader(s.large.Blob)); err != nil || x.Info().ID != there[0].ID {
		s.Errorf("the index %s: %v", x.Info().ID, err)
	}
}

func contains(t *testing.T, out string, err error, want ...string) {
	t.Helper()
	text := out
	if err != nil {
		text += err.Error()
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("it says:\n%s\nwant %q", text, w)
		}
	}
}

// TestPush: indexes get beside an image, whether the registry lists referrers or
// not; once more is no more; what others have put there stays.
func TestPush(t *testing.T) {
	t.Parallel()
	for _, lists := range []bool{true, false} {
		s := newShop(t, origintest.Options{Auth: origintest.Bearer, Users: alice, Referrers: lists})
		out, err := s.index("ls", s.name("v1"))
		contains(t, out, err, "small: downloaded at once")
		other := []byte(fmt.Sprintf(`{"artifactType":"a/b","subject":{"digest":%q}}`, s.manifest))
		d := s.reg.AddManifest(team, ocispec.MediaTypeImageManifest, other)
		tag := origin.ReferrersTag(s.manifest)
		if !lists {
			s.reg.Tag(team, tag, s.reg.AddManifest(team, ocispec.MediaTypeImageIndex, fmt.Appendf(nil, `{"manifests":[{"digest":%q,"artifactType":"a/b"}]}`, d)))
		}
		out, err = s.index("push", s.name("v1"))
		s.must(err)
		contains(t, out, err, "image "+s.manifest.String(), "downloaded and indexed", "small: downloaded at once", ": 1 indexes", "trust = ['"+s.reg.Host()+"/team/app']")
		s.check()
		if !lists {
			c, err := origin.New(origin.Config{Credentials: origin.NewDockerConfig(s.docker)})
			s.must(err)
			data, _, err := c.Tagged(t.Context(), origin.Repo{Host: s.reg.Host(), Path: team}, tag, 1<<20)
			c.Close()
			if err != nil || !strings.Contains(string(data), d.String()) {
				t.Errorf("the list lost what another one had put there: %s, %v", data, err)
			}
		}
		if n := s.reg.Sent(s.large.Digest); n != s.large.Size() {
			t.Errorf("%d bytes of a layer of %d were sent, which is in the image twice", n, s.large.Size())
		}
		out, err = s.index("ls", s.name("v1"))
		s.must(err)
		contains(t, out, nil, "INDEX SIZE", s.large.Digest.Encoded()[:12], fmt.Sprint(index.Version))
		if n := strings.Count(out, "\n"); n != 3 {
			t.Errorf("%d lines:\n%s", n, out)
		}
		out, err = s.index("ls", "--json", s.reg.Host()+"/"+team+"@"+s.manifest.String())
		s.must(err)
		var list []listed
		if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 2 || list[0].Note != "" || list[0].Head >= list[0].Pack {
			t.Errorf("as JSON %+v: %v", list, err)
		}
		before := s.writes()
		_, err = s.index("push", s.name("v1"))
		s.must(err)
		if n := s.writes() - before; n != 1 {
			t.Errorf("%d writes to push the same again, want the manifest alone", n)
		}
		s.check()
	}
}

// TestListSoci: what SOCI has put beside an image is listed, and what the image
// itself names; and SOCI's index is not taken for an image of the platform.
func TestListSoci(t *testing.T) {
	t.Parallel()
	s := newShop(t, origintest.Options{Referrers: true})
	ztoc := digest.FromString("ztoc")
	index := func(typ, more string) digest.Digest {
		text := `{"config":{"mediaType":%q},"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":7,"annotations":{"com.amazon.soci.image-layer-digest":%q}}]%s}`
		return s.reg.AddManifest(team, ocispec.MediaTypeImageManifest, fmt.Appendf(nil, text, typ, ztoc, s.large.Digest, more))
	}
	index(indexes.SociV1, fmt.Sprintf(`,"subject":{"digest":%q},"artifactType":%q`, s.manifest, indexes.SociV1))
	out, err := s.index("ls", s.name("v1"))
	contains(t, out, err, "SOCI v1", ztoc.Encoded()[:12], "if the repository is trusted")
	named := index(indexes.SociV2, "")
	c, err := origin.New(origin.Config{})
	s.must(err)
	defer c.Close()
	data, _, err := c.Document(t.Context(), origin.Repo{Host: s.reg.Host(), Path: team}, s.manifest, true, maxDocument)
	s.must(err)
	var m ocispec.Manifest
	s.must(json.Unmarshal(data, &m))
	m.Annotations = map[string]string{"com.amazon.soci.index-digest": named.String()}
	data, err = json.Marshal(m)
	s.must(err)
	here := &ocispec.Platform{OS: "linux", Architecture: strings.TrimPrefix(thisPlatform, "linux/")}
	list, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{
		{Digest: s.reg.AddManifest(team, ocispec.MediaTypeImageManifest, data), Platform: here},
		{Digest: named, Platform: here, ArtifactType: indexes.SociV2},
	}})
	s.must(err)
	s.reg.Tag(team, "v2", s.reg.AddManifest(team, ocispec.MediaTypeImageIndex, list))
	out, err = s.index("ls", s.name("v2"))
	contains(t, out, err, "SOCI v2", ztoc.Encoded()[:12])
	if strings.Contains(out, "SOCI v1") {
		t.Errorf("another image's is listed:\n%s", out)
	}
}

// TestPushKept: what the agent has made is used, and nothing is downloaded.
func TestPushKept(t *testing.T) {
	t.Parallel()
	s := newShop(t, origintest.Options{})
	dir := filepath.Join(s.root, "index")
	s.must(os.Mkdir(dir, 0o700))
	_, err := index.Build(t.Context(), indexes.Kept(dir, s.large.Digest), bytes.NewReader(s.large.Blob), index.Options{})
	s.must(err)
	out, err := s.index("push", "--dry-run", s.name("v1"))
	contains(t, out, err, "the agent's index")
	if s.writes() > 0 {
		t.Error("a dry run wrote something")
	}
	out, err = s.index("push", s.name("v1"))
	s.must(err)
	contains(t, out, nil, "the agent's index")
	if n := s.reg.Sent(s.large.Digest); n > 0 {
		t.Errorf("%d bytes were downloaded", n)
	}
	s.check()
	other := indextest.Gzip(indextest.Tar(indextest.File("x", indextest.Random(2, 5<<20))), indextest.GzipOptions{})
	_, err = index.Build(t.Context(), indexes.Kept(dir, s.large.Digest), bytes.NewReader(other.Blob), index.Options{})
	s.must(err)
	out, err = s.index("push", "--dry-run", s.name("v1"))
	contains(t, out, err, "to be downloaded and indexed", "is an index of "+other.Digest.String())
	if s.reg.Sent(s.large.Digest) > 0 {
		t.Error("a dry run downloaded something")
	}
}

// TestPushPlatforms: of several images those of the platforms asked for count.
func TestPushPlatforms(t *testing.T) {
	t.Parallel()
	s := newShop(t, origintest.Options{})
	var list ocispec.Index
	for _, p := range []string{thisPlatform, "linux/other/v9", "unknown/unknown"} {
		part := strings.Split(p+"/", "/")
		list.Manifests = append(list.Manifests, ocispec.Descriptor{Digest: s.manifest, Platform: &ocispec.Platform{OS: part[0], Architecture: part[1], Variant: part[2]}})
	}
	data, err := json.Marshal(list)
	s.must(err)
	s.reg.Tag(team, "all", s.reg.AddManifest(team, ocispec.MediaTypeImageIndex, data))
	for args, want := range map[string]string{"": thisPlatform, "--platform=linux/other": "linux/other/v9", "--platform=all": "linux/other/v9"} {
		out, err := s.index(append([]string{"push", "--dry-run", s.name("all")}, strings.Fields(args)...)...)
		s.must(err)
		contains(t, out, nil, "("+want+")")
		if n := strings.Count(out, "image "); n != 1 && args != "--platform=all" || n > 2 {
			t.Errorf("%s: %d images:\n%s", args, n, out)
		}
	}
	out, err := s.index("push", "--platform", "linux/riscv64", s.name("all"))
	if !errors.Is(err, errPlatform) {
		t.Errorf("%s%v", out, err)
	}
	contains(t, out, err, "linux/riscv64", "only for "+thisPlatform)
}

// TestPushFails: what cannot be pushed is said, and not half done.
func TestPushFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		auth  origintest.Options
		fail  func(s *shop)
		image string
		want  []string
	}{
		"no image":       {image: "v2", want: []string{"not found"}},
		"no name":        {image: "v1:x", want: []string{"is not the name of an image"}},
		"may not push":   {auth: origintest.Options{Auth: origintest.Bearer, Users: alice, Readers: map[string][]string{team: {"nobody"}}}, want: []string{"not authorized", "docker login"}},
		"wrong layer":    {fail: func(s *shop) { s.reg.Fail(s.large.Digest, origintest.Fault{Corrupt: true}) }, want: []string{"layer sha256:", "digest"}},
		"no layer":       {fail: func(s *shop) { s.reg.Fail(s.large.Digest, origintest.Fault{Status: 404}) }, want: []string{"layer sha256:", "not found"}},
		"tag is no list": {fail: func(s *shop) { s.reg.Tag(team, origin.ReferrersTag(s.manifest), s.manifest) }, want: []string{"which is for a list of what refers to the image"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, c.auth)
			if c.fail != nil {
				c.fail(s)
			}
			if c.image == "" {
				c.image = "v1"
			}
			out, err := s.index("push", s.name(c.image))
			if err == nil {
				t.Error("pushed")
			}
			contains(t, "", err, c.want...)
			if strings.Contains(out, "trust =") {
				t.Errorf("it claims success:\n%s", out)
			}
		})
	}
}

// TestPushResumes: a download that breaks off goes on where it was.
func TestPushResumes(t *testing.T) {
	t.Parallel()
	s := newShop(t, origintest.Options{})
	s.reg.Fail(s.large.Digest, origintest.Fault{CutAfter: 2 << 20, Times: 1})
	_, err := s.index("push", s.name("v1"))
	s.must(err)
	if n := s.reg.Sent(s.large.Digest); n != s.large.Size() {
		t.Errorf("%d bytes of %d were sent", n, s.large.Size())
	}
	s.check()
}
