package indexes

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
	"github.com/dfsnapshotter/dfsnapshotter/fs/index"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

const (
	maxArtifacts = 8 // of one image that are looked at
	maxQuestions = 256
	askWithin    = 10 * time.Second
	waitForIt    = 500 * time.Millisecond // that a layer waits for the answer, before it is unpacked meanwhile
	answerHolds  = time.Minute            // so long nobody asks again
	failureHolds = 5 * time.Second
)

// Image is one that layers are wanted for: indexes may lie beside it.
type Image struct {
	Repo     origin.Repo
	Manifest digest.Digest // "": not known
}

// question is what was asked of a registry about an image: one for all its layers.
type question struct {
	done  chan struct{} // closed once what follows is set
	until time.Time
	found []p2p.Index // guarded by Indexes.mu once done is closed
	ztocs []Ztoc      // likewise
}

// ask asks the registry of an image for the indexes beside it, as far as it may be
// believed, if it was not asked a moment ago. The result is nil if it may not.
func (x *Indexes) ask(img Image) *question {
	trusted := x.trust.Repos != nil && x.trust.Repos(img.Repo)
	if img.Manifest == "" || !trusted && !x.trust.Images {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if q := x.questions[img]; q != nil && q.holds() {
		return q
	}
	for k, q := range x.questions {
		if !q.holds() || len(x.questions) >= maxQuestions {
			delete(x.questions, k) // who waits for it has it
		}
	}
	q := &question{done: make(chan struct{})}
	x.questions[img] = q
	x.wg.Go(func() {
		defer close(q.done)
		err := x.answer(q, img, trusted)
		q.until = time.Now().Add(answerHolds)
		name := img.Repo.String() + "@" + img.Manifest.String()
		switch {
		case len(q.found)+len(q.ztocs) > 0:
			x.asked.WithLabelValues("found").Inc()
			x.log.Info("a registry has indexes of an image's layers", "image", name, "indexes", len(q.found), "ztocs", len(q.ztocs))
		case err != nil && x.ctx.Err() == nil:
			x.asked.WithLabelValues("failed").Inc()
			q.until = time.Now().Add(failureHolds)
			x.log.Warn("a registry does not say which indexes it has of an image's layers", "image", name, "err", err)
		case trusted: // else nobody was asked: the manifest names none
			x.asked.WithLabelValues("none").Inc()
		}
	})
	return q
}

// answer finds out what a question is about: what lies beside the image in a
// repository that is trusted, SOCI's if there is nothing else, and what the image's
// manifest names.
func (x *Indexes) answer(q *question, img Image, trusted bool) (err error) {
	ctx, cancel := context.WithTimeout(x.ctx, askWithin)
	defer cancel()
	if trusted {
		if q.found, err = x.beside(ctx, img); len(q.found) > 0 {
			return err
		}
	}
	if trusted || x.trust.Images {
		var nerr error
		q.ztocs, nerr = x.named(ctx, img)
		err = errors.Join(err, nerr)
	}
	if trusted && len(q.ztocs) == 0 {
		var rerr error
		q.ztocs, rerr = x.referring(ctx, img)
		err = errors.Join(err, rerr)
	}
	return err
}

// holds reports whether the answer is still to come, or is not old.
func (q *question) holds() bool { return !q.over() || time.Now().Before(q.until) }

func (q *question) over() bool {
	select {
	case <-q.done:
		return true
	default:
		return false
	}
}

// of returns the indexes of a layer that an answer names.
func (x *Indexes) of(q *question, layer digest.Digest) (found []p2p.Index) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, offer := range q.found {
		if offer.Layer == layer && offer.Version == index.Version {
			found = append(found, offer)
		}
	}
	return found
}

// drop takes an index that cannot be used out of an answer.
func (x *Indexes) drop(q *question, offer p2p.Index) {
	x.mu.Lock()
	defer x.mu.Unlock()
	q.found = slices.DeleteFunc(q.found, func(o p2p.Index) bool { return o.Layer == offer.Layer && o.Pack == offer.Pack })
}

// ztocsOf returns the ztocs of a layer that an answer names.
func (x *Indexes) ztocsOf(q *question, layer digest.Digest) (found []Ztoc) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, z := range q.ztocs {
		if z.Layer == layer {
			found = append(found, z)
		}
	}
	return found
}

// dropZtoc takes a ztoc that cannot be used out of an answer.
func (x *Indexes) dropZtoc(q *question, z Ztoc) {
	x.mu.Lock()
	defer x.mu.Unlock()
	q.ztocs = slices.DeleteFunc(q.ztocs, func(o Ztoc) bool { return o == z })
}

// beside reads which indexes lie beside an image. Where one artifact cannot be
// read the others count.
func (x *Indexes) beside(ctx context.Context, img Image) (found []p2p.Index, err error) {
	list, err := x.fetcher.Referrers(ctx, img.Repo, img.Manifest, ArtifactType)
	for _, d := range list[:min(len(list), maxArtifacts)] {
		data, _, derr := x.fetcher.Document(ctx, img.Repo, d.Digest, true)
		if derr == nil {
			var more []p2p.Index
			more, derr = ParseArtifact(data, img.Manifest)
			found = append(found, more...)
		}
		err = errors.Join(err, derr)
	}
	return slices.Clip(found), err
}
