package mirror

import (
	"encoding/json"
	"strings"

	"github.com/opencontainers/go-digest"
)

const (
	maxManifest = 4 << 20 // bytes; a larger one is passed through unread
	maxListed   = 1024    // blobs of one manifest that are noted
)

// listed is a blob that a manifest names.
type listed struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	// URLs say that the blob is elsewhere: registries take a manifest that
	// names it without having it, or without its author's leave to read it.
	URLs []string `json:"urls"`
}

// blobsOf returns the blobs that a manifest lists, and that the registry which
// gave it therefore has in that repository. What is no manifest lists none.
func blobsOf(body []byte) []listed {
	var m struct {
		Config *listed  `json:"config"`
		Layers []listed `json:"layers"`
		Blobs  []listed `json:"blobs"` // of an artifact manifest
	}
	if json.Unmarshal(body, &m) != nil {
		return nil
	}
	all := append(m.Layers, m.Blobs...)
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	var good []listed
	for _, b := range all {
		if b.Digest.Validate() == nil && b.Size >= 0 && !b.elsewhere() && len(good) < maxListed {
			good = append(good, b)
		}
	}
	return good
}

func (b listed) elsewhere() bool {
	return len(b.URLs) > 0 || strings.Contains(b.MediaType, "foreign") || strings.Contains(b.MediaType, "nondistributable")
}
