package fetcher_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher"
	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// TestOrigin reads a blob and a document over HTTP.
func TestOrigin(t *testing.T) {
	data := content(9*mib, 1)
	d := digest.FromBytes(data)
	mux := http.NewServeMux()
	mux.HandleFunc("/v2/a/b/blobs/"+d.String(), func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	doc := digest.FromString("{}")
	mux.HandleFunc("/v2/a/b/manifests/"+doc.String(), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = w.Write([]byte("{}")) // the client will notice
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	client, err := origin.New(origin.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	f := open(t, fetcher.Config{Dir: tempDir(t), Sources: []fetcher.Source{fetcher.Origin(client)}, Documents: client})
	at := origin.Repo{Host: strings.TrimPrefix(srv.URL, "http://"), Path: "a/b"}
	b := openBlob(t, f, fetcher.Ref{Digest: d, Size: int64(len(data)), Repo: at})
	want(t, b, data, 5*mib, 1000, fetcher.OnDemand)
	if err := b.Verify(t.Context(), fetcher.Prefetch); err != nil {
		t.Error(err)
	}
	if s := b.Stats(); s.Fetched["origin"] != int64(len(data))+1000 { // what was there is bridged
		t.Errorf("stats %+v", s)
	}
	got, mediaType, err := f.Document(t.Context(), at, doc, true)
	if err != nil || string(got) != "{}" || mediaType != "application/vnd.oci.image.manifest.v1+json" {
		t.Errorf("document %q, %q, %v", got, mediaType, err)
	}
}
