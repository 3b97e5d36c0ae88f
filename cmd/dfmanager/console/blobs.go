package console

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/sight"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/web"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

// blobRow is a swarm, and the images that its blob is known to be of.
type blobRow struct {
	sight.Swarm
	Images []string // URLs
}

// blobList is the blobs of a cluster, those that need to be looked at first.
type blobList struct {
	membersView
	Digest string // they begin so
	Blobs  []blobRow
	More   int // that are not shown
}

func (c *Console) blobsFrame(ctx context.Context, v *web.Visit) (f frame, err error) {
	k, err := c.clusterBy(ctx, v)
	if err != nil {
		return f, err
	}
	l := blobList{Digest: strings.TrimSpace(v.URL.Query().Get("digest"))}
	if l.membersView, err = c.members(ctx, k); err != nil {
		return f, err
	}
	var digests []string
	for _, w := range l.Sees.Swarms {
		if !begins(w.Blob.Digest, l.Digest) {
			continue
		}
		if len(l.Blobs) == maxRows {
			l.More++
			continue
		}
		l.Blobs, digests = append(l.Blobs, blobRow{Swarm: w}), append(digests, w.Blob.Digest)
	}
	images, err := c.Store.ImagesOf(ctx, digests)
	for i := range l.Blobs {
		l.Blobs[i].Images = images[l.Blobs[i].Blob.Digest]
	}
	live := clusterPath(k.ID) + "/blobs/events?" + url.Values{"digest": {l.Digest}}.Encode()
	return frame{Title: "Blobs of " + k.Name, Page: "blobs", Live: live, Body: l}, err
}

// begins reports whether a digest begins so, with or without its algorithm.
func begins(digest, prefix string) bool {
	_, hex, _ := strings.Cut(digest, ":")
	return strings.HasPrefix(digest, prefix) || strings.HasPrefix(hex, prefix)
}

func (c *Console) blobs(v *web.Visit) error {
	f, err := c.blobsFrame(v.Context(), v)
	if err != nil {
		return err
	}
	return c.show(v, http.StatusOK, f)
}

func (c *Console) blobsEvents(v *web.Visit) error {
	return c.live(v, func(ctx context.Context) (frame, bool, error) {
		f, err := c.blobsFrame(ctx, v)
		return f, false, err
	})
}

// blobDetail is a blob, and which pieces of it who has.
type blobDetail struct {
	sight.Blob
	Digest string
	Of     store.Cluster
	Found  bool
	Unseen string // why it may be there, and is not shown
	Images []string
	Rows   []holderRow
	Time   timeLine
}

// holderRow is one line of the piece map.
type holderRow struct {
	sight.Holder
	Strips []strip
	Bytes  int64
}

// strip is a run of pieces that a host has.
type strip struct{ First, Count int }

// bytesOf is about how many bytes some pieces of a blob are.
func bytesOf(b sight.Blob, pieces int) int64 {
	if b.Pieces == 0 {
		return 0
	}
	return b.Size() * int64(pieces) / int64(b.Pieces)
}

func (c *Console) blobFrame(ctx context.Context, v *web.Visit) (f frame, err error) {
	k, err := c.clusterBy(ctx, v)
	if err != nil {
		return f, err
	}
	m, err := c.members(ctx, k)
	if err != nil {
		return f, err
	}
	d := blobDetail{Digest: v.PathValue("digest"), Of: k}
	if d.Blob, d.Found, err = c.Sight.Watch(ctx, k.ID, m.Names(), digest.Digest(d.Digest)); errors.Is(err, sight.ErrUnseen) {
		d.Unseen, err = err.Error(), nil
	}
	if err != nil {
		return f, err
	}
	for _, h := range d.Hosts {
		row := holderRow{Holder: h, Bytes: bytesOf(d.Blob, h.Have)}
		for _, r := range h.Runs {
			row.Strips = append(row.Strips, strip{r[0], r[1] - r[0] + 1})
		}
		d.Rows = append(d.Rows, row)
	}
	d.Time = lineUp(c.Sight.Trace(k.ID, digest.Digest(d.Digest)), d.Pieces)
	images, err := c.Store.ImagesOf(ctx, []string{d.Digest})
	d.Images = images[d.Digest]
	live := clusterPath(k.ID) + "/blobs/" + url.PathEscape(d.Digest) + "/events"
	return frame{Title: short(d.Digest), Page: "blob", Live: live, Body: d}, err
}

func (c *Console) blob(v *web.Visit) error {
	f, err := c.blobFrame(v.Context(), v)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if d := f.Body.(blobDetail); !d.Found && d.Unseen == "" {
		status = http.StatusNotFound
	}
	return c.show(v, status, f)
}

func (c *Console) blobEvents(v *web.Visit) error {
	return c.live(v, func(ctx context.Context) (frame, bool, error) {
		f, err := c.blobFrame(ctx, v)
		return f, false, err
	})
}

// imageRow is an image that was preheated.
type imageRow struct {
	store.Image
	Blobs []imageBlob
	Least int // how many hosts have all of the blob that fewest have; -1: that is not known
}

// imageBlob is a blob of an image, and in how many places it is.
type imageBlob struct {
	store.JobBlob
	Copies int
}

// imageList is images, the latest first.
type imageList struct {
	Images  []imageRow
	Seeing  bool
	Cluster int64
	Next    string
}

func (c *Console) images(v *web.Visit) error {
	ctx := v.Context()
	all, err := c.Store.Images(ctx, part(v))
	if err != nil {
		return err
	}
	k, err := c.standard(ctx)
	if err != nil {
		return err
	}
	m, err := c.members(ctx, k)
	if err != nil {
		return err
	}
	copies := map[string]int{}
	for _, w := range m.Sees.Swarms {
		copies[w.Blob.Digest] += w.Complete
	}
	l := imageList{Seeing: m.Seeing(), Cluster: k.ID, Next: next(v, all, func(i store.Image) int64 { return i.Job })}
	for _, i := range all {
		row := imageRow{Image: i, Least: -1}
		blobs, err := c.Store.JobBlobs(ctx, i.Job)
		if err != nil {
			return err
		}
		for _, b := range blobs {
			n := copies[b.Digest]
			row.Blobs = append(row.Blobs, imageBlob{b, n})
			if tiny := (p2p.Blob{Size: b.Size}).Scope() <= p2p.Tiny; !tiny && (row.Least < 0 || n < row.Least) { // schedulers have those
				row.Least = n
			}
		}
		l.Images = append(l.Images, row)
	}
	return c.show(v, http.StatusOK, frame{Title: "Images", Page: "images", Body: l})
}
