package snapshot

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/origin"
)

// images are those that containerd is pulling. Their layers are resolved in
// parallel from the first Prepare on, on the component's own time: a request
// that ends, ends only its wait. Every resolved layer is held until the image
// is complete, or until nobody has asked for it for a while.
type images struct {
	docs   Images
	layers Layers
	holds  *holds
	mode   func(origin.Repo) Mode

	ctx context.Context // of all work under way
	wg  sync.WaitGroup  // goroutines

	mu     sync.Mutex // guards the fields below and those of every image
	closed bool
	open   map[imageKey]*image
}

// image is one image being pulled.
type image struct {
	key     imageKey
	planned chan struct{} // closed when plan or err is set
	plan    *plan
	err     error

	users  int // Prepares under way
	used   time.Time
	layers []*resolving // nil: not asked for; lower layers may be known to containerd already
}

// resolving is one layer on its way.
type resolving struct {
	done chan struct{} // closed when id, which is then held, or err is set
	id   uint32
	err  error
	told bool // somebody was told of err, so the next one tries again; guarded by images.mu
}

func (r *resolving) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// layer returns the layer that req asks for, and if it is the image's uppermost
// one, its plan. It is held until release is called. The error may be one to
// leave the layer to containerd for.
func (m *images) layer(ctx context.Context, req request) (id uint32, top *plan, release func(), err error) {
	img, err := m.enter(req.image)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() {
		if err != nil {
			m.exit(img)
		}
	}()
	if err := wait(ctx, img.planned); err != nil {
		return 0, nil, nil, err
	}
	if img.err != nil {
		return 0, nil, nil, img.err
	}
	i, err := img.plan.find(req)
	if err != nil {
		return 0, nil, nil, err
	}
	r, err := m.resolveFrom(img, i)
	if err != nil {
		return 0, nil, nil, err
	}
	if err := wait(ctx, r.done); err != nil {
		return 0, nil, nil, err
	}
	if r.err != nil {
		m.mu.Lock()
		r.told = true
		m.mu.Unlock()
		return 0, nil, nil, fmt.Errorf("layer %s: %w", req.layer, r.err)
	}
	if i == len(img.layers)-1 {
		top = img.plan
	}
	return r.id, top, func() { m.exit(img) }, nil
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// enter returns the image, and starts reading its manifest if it is new.
func (m *images) enter(key imageKey) (*image, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosed
	}
	img, ok := m.open[key]
	if !ok {
		img = &image{key: key, planned: make(chan struct{})}
		m.open[key] = img
		m.wg.Go(func() { m.read(img) })
	}
	img.users++
	return img, nil
}

func (m *images) read(img *image) {
	plan, err := readPlan(m.ctx, m.docs, img.key)
	if err == nil {
		plan.mode = m.mode(img.key.repo)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	img.plan, img.err = plan, err
	if err != nil {
		delete(m.open, img.key) // the next one who asks tries again
	} else {
		img.layers = make([]*resolving, len(plan.wants))
	}
	close(img.planned)
}

// resolveFrom starts resolving layer i of img and all above it, as far as that
// is not under way, and returns layer i.
func (m *images) resolveFrom(img *image, i int) (*resolving, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosed
	}
	for j := i; j < len(img.layers); j++ {
		if r := img.layers[j]; r != nil && !r.told {
			continue
		}
		r := &resolving{done: make(chan struct{})}
		img.layers[j] = r
		w := img.plan.wants[j]
		w.Mode = img.plan.mode
		m.wg.Go(func() { m.resolve(r, w) })
	}
	return img.layers[i], nil
}

func (m *images) resolve(r *resolving, w Want) {
	defer close(r.done)
	for {
		id, err := m.layers.Resolve(m.ctx, w)
		if err != nil {
			r.err = err
			return
		}
		if !m.hold(id) {
			continue // it was removed in the meantime
		}
		r.id = id
		return
	}
}

// hold holds a layer that was just found, unless it is gone.
func (m *images) hold(id uint32) bool {
	if gone := m.holds.take(id); gone != nil {
		<-gone
		return false
	}
	if _, ok := m.layers.Layer(id); !ok {
		m.holds.release(id)
		return false
	}
	return true
}

func (m *images) exit(img *image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	img.users--
	img.used = time.Now()
}

// complete forgets an image whose uppermost layer has its snapshot, unless it
// is still being used. A later Prepare reads it again, which is quick.
func (m *images) complete(key imageKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if img := m.open[key]; img != nil {
		m.forget(img)
	}
}

// expire forgets the images that nobody has asked for since before, and
// reports whether there were any.
func (m *images) expire(before time.Time) (any bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, img := range m.open {
		if img.used.Before(before) && m.forget(img) {
			any = true
		}
	}
	return any
}

// forget drops an image and what it holds, unless something of it is under
// way; the caller holds mu.
func (m *images) forget(img *image) bool {
	if img.users > 0 || img.layers == nil {
		return false
	}
	for _, r := range img.layers {
		if r != nil && !r.over() {
			return false
		}
	}
	for _, r := range img.layers {
		if r != nil && r.err == nil {
			m.holds.release(r.id)
		}
	}
	delete(m.open, img.key)
	return true
}

// close waits for the work under way, whose context the caller has ended.
func (m *images) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.wg.Wait()
}
