package origin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin/origintest"
)

const artifact = "application/vnd.example.thing"

// referrer is a manifest that refers to another one.
func referrer(t *testing.T, kind string, subject digest.Digest) []byte {
	t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind, Subject: &ocispec.Descriptor{Digest: subject}}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func digests(list []ocispec.Descriptor) (all []digest.Digest) {
	for _, d := range list {
		all = append(all, d.Digest)
	}
	return all
}

// TestReferrers pushes a referrer and finds it again: as the registry lists it,
// or by the tag.
func TestReferrers(t *testing.T) {
	subject := digest.FromString(manifest)
	for _, lists := range []bool{true, false} {
		reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users, Referrers: lists})
		reg.AddManifest(repoPath, ocispec.MediaTypeImageManifest, []byte(manifest))
		c := client(t, origin.Config{Credentials: known{alice}})
		find := func() []digest.Digest {
			found, err := c.Referrers(t.Context(), repo(reg), subject, artifact, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			return digests(found)
		}
		if found := find(); found != nil {
			t.Errorf("lists %v: %v before there is any", lists, found)
		}
		blob, other := data(1, 3000), referrer(t, "something.else", subject)
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil }
		for range 2 { // the second time it is there
			if err := c.PushBlob(t.Context(), repo(reg), digest.FromBytes(blob), int64(len(blob)), open); err != nil {
				t.Fatal(err)
			}
		}
		mustGet(t, c, repo(reg), digest.FromBytes(blob), 0, -1, blob)
		body := referrer(t, artifact, subject)
		got, err := c.PushManifest(t.Context(), repo(reg), "", ocispec.MediaTypeImageManifest, body)
		if err != nil || got != lists {
			t.Fatalf("the registry lists it: %v, want %v: %v", got, lists, err)
		}
		if _, err := c.PushManifest(t.Context(), repo(reg), "", ocispec.MediaTypeImageManifest, other); err != nil {
			t.Fatal(err)
		}
		if !lists {
			index, _ := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
				{Digest: digest.FromBytes(other), ArtifactType: "something.else"},
				{Digest: digest.FromBytes(body), ArtifactType: artifact},
				{Digest: "nonsense", ArtifactType: artifact},
			}})
			if _, err := c.PushManifest(t.Context(), repo(reg), origin.ReferrersTag(subject), ocispec.MediaTypeImageIndex, index); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]digest.Digest{digest.FromBytes(body)}, find()); diff != "" {
			t.Errorf("lists %v: (-want +got)\n%s", lists, diff)
		}
		uploads := 0
		for _, q := range reg.Requests() {
			if q.Kind == "upload" && q.Status < 300 {
				uploads++
			}
			if q.Kind == "referrers" && q.Status == 200 && !strings.Contains(q.URL, "artifactType=application%2Fvnd.example.thing") {
				t.Errorf("asked without the type: %s", q.URL)
			}
		}
		if uploads != 2 {
			t.Errorf("%d requests to upload one blob, want 2", uploads)
		}
	}
}

// TestReferrersFaults: what a registry sends that is no list.
func TestReferrersFaults(t *testing.T) {
	subject := digest.FromString(manifest)
	for name, c := range map[string]struct {
		data, mediaType string
		want            error
	}{
		"no JSON":      {"<html>", ocispec.MediaTypeImageIndex, origin.ErrResponse},
		"no list":      {manifest, ocispec.MediaTypeImageManifest, origin.ErrResponse},
		"too long":     {`{"x":"` + strings.Repeat("x", 5000) + `"}`, ocispec.MediaTypeImageIndex, origin.ErrResponse},
		"empty":        {`{}`, ocispec.MediaTypeImageIndex, nil},
		"null entries": {`{"manifests":[null,{},{"artifactType":"` + artifact + `"}]}`, ocispec.MediaTypeImageIndex, nil},
	} {
		reg := origintest.New(t, origintest.Options{})
		reg.Tag(repoPath, origin.ReferrersTag(subject), reg.AddManifest(repoPath, c.mediaType, []byte(c.data)))
		found, err := client(t, origin.Config{}).Referrers(t.Context(), repo(reg), subject, artifact, 4000)
		if !errors.Is(err, c.want) || len(found) > 0 {
			t.Errorf("%s: %v, %v; want %v", name, found, err, c.want)
		}
	}
}

// TestPushRefused: who may read but not write is told so, and what breaks off is
// no success.
func TestPushRefused(t *testing.T) {
	reg := origintest.New(t, origintest.Options{Auth: origintest.Bearer, Users: users, Readers: map[string][]string{repoPath: {"nobody"}}})
	c := client(t, origin.Config{Credentials: known{alice}})
	blob := data(2, 100)
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil }
	if err := c.PushBlob(t.Context(), repo(reg), digest.FromBytes(blob), 100, open); !errors.Is(err, origin.ErrUnauthorized) {
		t.Errorf("not allowed to push: %v", err)
	}
	if _, err := c.PushManifest(t.Context(), repo(reg), "", ocispec.MediaTypeImageManifest, []byte(manifest)); !errors.Is(err, origin.ErrUnauthorized) {
		t.Errorf("not allowed to push a manifest: %v", err)
	}
	reg = origintest.New(t, origintest.Options{})
	d := digest.FromBytes(blob)
	reg.Fail(d, origintest.Fault{Status: 503, Times: 2})
	for _, want := range []string{"503", "503", "<nil>"} {
		if err := c.PushBlob(t.Context(), repo(reg), d, 100, open); !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := c.PushBlob(t.Context(), repo(reg), digest.FromString("x"), 100, open); !errors.Is(err, origin.ErrResponse) {
		t.Errorf("a blob with another digest: %v", err)
	}
	if _, err := c.PushManifest(t.Context(), repo(reg), "not a tag", "", nil); err == nil {
		t.Error("pushed to what is not a tag")
	}
}

// TestTagged reads what a tag names.
func TestTagged(t *testing.T) {
	reg := origintest.New(t, origintest.Options{})
	reg.Tag(repoPath, "v1", reg.AddManifest(repoPath, ocispec.MediaTypeImageManifest, []byte(manifest)))
	c := client(t, origin.Config{})
	got, mediaType, err := c.Tagged(t.Context(), repo(reg), "v1", 1000)
	if string(got) != manifest || mediaType != ocispec.MediaTypeImageManifest || err != nil {
		t.Errorf("got %q, %q, %v", got, mediaType, err)
	}
	if _, _, err := c.Tagged(t.Context(), repo(reg), "v2", 1000); !errors.Is(err, origin.ErrNotFound) {
		t.Errorf("a tag that is not there: %v", err)
	}
	if _, _, err := c.Tagged(t.Context(), repo(reg), "../blobs/x", 1000); err == nil {
		t.Error("read what is not a tag")
	}
}

// TestServerOnly: who writes down what a tag names asks no mirror for that.
func TestServerOnly(t *testing.T) {
	reg, mirror := origintest.New(t, origintest.Options{}), origintest.New(t, origintest.Options{})
	for i, r := range []*origintest.Registry{mirror, reg} {
		r.Tag(repoPath, "v1", r.AddManifest(repoPath, ocispec.MediaTypeImageManifest, fmt.Appendf(nil, `{"n":%d}`, i)))
	}
	dir := hostsDir(t, reg.Host(), fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", reg.URL(), mirror.URL()))
	for only, want := range map[bool]string{false: `{"n":0}`, true: `{"n":1}`} {
		c := client(t, origin.Config{HostsDir: dir, ServerOnly: only})
		if got, _, err := c.Tagged(t.Context(), repo(reg), "v1", 100); string(got) != want || err != nil {
			t.Errorf("server only %v: %q, %v; want %q", only, got, err, want)
		}
	}
}
