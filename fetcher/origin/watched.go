package origin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// watched is a file that is parsed again when it has changed. The zero value
// is ready.
type watched[T any] struct {
	mu    sync.Mutex
	last  os.FileInfo // of the file that value was read from
	value *T
}

// read returns what is in the file, nil if there is none.
func (w *watched[T]) read(path string, parse func([]byte) (*T, error)) (*T, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		w.last, w.value = nil, nil
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	if w.last != nil && os.SameFile(w.last, fi) && w.last.Size() == fi.Size() && w.last.ModTime().Equal(fi.ModTime()) {
		return w.value, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	value, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("read credentials from %s: %w", path, err)
	}
	w.last, w.value = fi, value
	return value, nil
}
