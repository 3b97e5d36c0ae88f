package origintest

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// servePush takes blobs, in one piece, and manifests.
func (r *Registry) servePush(w http.ResponseWriter, req *http.Request, q *Request, repo, ref string) {
	if req.Method == http.MethodPost {
		w.Header().Set("Location", r.opts.Root+"/"+repo+"/blobs/uploads/one?state=x")
		r.reply(w, q, http.StatusAccepted, "")
		return
	}
	data, err := io.ReadAll(req.Body)
	d := digest.FromBytes(data)
	if f, _ := r.fault(d); f.Status != 0 {
		r.reply(w, q, f.Status, "FAULT")
		return
	}
	want := digest.Digest(ref)
	if q.Kind == "upload" {
		want = digest.Digest(req.URL.Query().Get("digest"))
	}
	switch {
	case err != nil || want.Validate() == nil && want != d:
		r.reply(w, q, http.StatusBadRequest, "DIGEST_INVALID")
		return
	case q.Kind == "upload":
		r.AddBlob(repo, data)
	default:
		r.AddManifest(repo, req.Header.Get("Content-Type"), data)
		if want != d {
			r.Tag(repo, ref, d)
		}
		if s := subject(data); s != "" && r.opts.Referrers {
			w.Header().Set("OCI-Subject", s.String())
		}
	}
	r.reply(w, q, http.StatusCreated, "")
}

// subject is what a manifest refers to.
func subject(data []byte) digest.Digest {
	var m ocispec.Manifest
	if json.Unmarshal(data, &m) != nil || m.Subject == nil {
		return ""
	}
	return m.Subject.Digest
}

// serveReferrers lists who refers to a manifest. It filters nothing, which is
// what registries may do.
func (r *Registry) serveReferrers(w http.ResponseWriter, _ *http.Request, q *Request, repo string, d digest.Digest) {
	if !r.opts.Referrers {
		r.reply(w, q, http.StatusNotFound, "NOT FOUND")
		return
	}
	list := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	list.SchemaVersion = 2
	r.mu.Lock()
	for at, c := range r.blobs[repo] {
		var m ocispec.Manifest
		if c.mediaType == "" || subject(c.data) != d || json.Unmarshal(c.data, &m) != nil {
			continue
		}
		list.Manifests = append(list.Manifests, ocispec.Descriptor{
			MediaType: c.mediaType, Digest: at, Size: int64(len(c.data)), ArtifactType: m.ArtifactType, Annotations: m.Annotations,
		})
	}
	q.Status = http.StatusOK
	r.mu.Unlock()
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	json.NewEncoder(w).Encode(list) //nolint:errcheck // the client is gone
}
