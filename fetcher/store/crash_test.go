package store_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/fetcher/store"
)

// snapshot copies a store's folder as a kill at this moment would leave it:
// file by file while it is written, so each map is older than the data that is
// copied after it.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	for _, data := range []bool{false, true} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			rel, rerr := filepath.Rel(dir, path)
			if errors.Is(err, fs.ErrNotExist) { // renamed or removed meanwhile
				return nil
			}
			if err = errors.Join(err, rerr); err != nil {
				return err
			}
			if e.IsDir() {
				return os.MkdirAll(filepath.Join(to, rel), 0o700)
			}
			if data != (e.Name() == "data") {
				return nil
			}
			b, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return errors.Join(err, os.WriteFile(filepath.Join(to, rel), b, 0o600))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// powerCut returns a copy of a store's folder with what counts after the loss
// of power: the durable maps.
func powerCut(t testing.TB, dir string) string {
	t.Helper()
	to := snapshot(t, dir)
	boots, err := filepath.Glob(filepath.Join(to, "*", "*", "map.boot"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range boots {
		if err := os.Remove(path); err != nil { // as good as one of another boot
			t.Fatal(err)
		}
	}
	return to
}

// TestKill copies the folder of a busy store at random moments and opens the
// copies: each gives right bytes only.
func TestKill(t *testing.T) {
	const size = 2 * mib
	dir := t.TempDir()
	s := open(t, dir, store.Config{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); wg.Wait() })
	defer end()
	for w := range uint64(3) {
		data, d := content(size, w)
		b := openBlob(t, s, d, size)
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(w, 0))
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				off := rnd.Int64N(size)
				n := 1 + rnd.Int64N(min(size-off, 64*kib))
				var err error
				if rnd.IntN(30) == 0 {
					err = b.Discard(off, n)
				} else {
					_, err = b.Fill(data[off:off+n], off)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	var held int64
	for range 12 {
		<-time.After(100 * time.Millisecond) // the maps are written by the second
		held += checkCopy(t, snapshot(t, dir), size)
	}
	end()
	closeAll(t, s)
	if held == 0 {
		t.Error("no copy held anything")
	}
	if held := checkCopy(t, dir, size); held == 0 {
		t.Error("nothing left after Close")
	}
}

func checkCopy(t *testing.T, dir string, size int64) int64 {
	t.Helper()
	s := open(t, dir, store.Config{})
	defer s.Close()
	var held int64
	for w := range uint64(3) {
		data, d := content(int(size), w)
		held += checkHeld(t, openBlob(t, s, d, size), data)
	}
	return held
}

// TestLoss holds how much a killed process and a machine without power lose.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data, d := content(mib, 1)
		dir := t.TempDir()
		s := open(t, dir, store.Config{})
		b := openBlob(t, s, d, mib)
		check := func(when string, dir string, want int64) {
			t.Helper()
			s := open(t, dir, store.Config{})
			defer s.Close()
			if got := checkHeld(t, openBlob(t, s, d, mib), data); got != want {
				t.Errorf("%s: %d bytes left, want %d", when, got, want)
			}
		}
		write(t, b, data, 0, 1000)
		check("killed at once", snapshot(t, dir), 0)
		time.Sleep(1500 * time.Millisecond)
		check("killed after 1.5 s", snapshot(t, dir), 1000)
		check("power cut after 1.5 s", powerCut(t, dir), 0)
		time.Sleep(10 * time.Second)
		check("power cut after 11.5 s", powerCut(t, dir), 1000)
		write(t, b, data, 0, mib)
		if err := b.MarkVerified(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		check("power cut after verification", powerCut(t, dir), mib)
		closeAll(t, b, s)
		check("closed", powerCut(t, dir), mib)
	})
}

// TestOtherBoot holds that a map.boot of another kernel run is not believed
// and does not come to life later.
func TestOtherBoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data, d := content(mib, 1)
		dir := t.TempDir()
		s := open(t, dir, store.Config{})
		b := openBlob(t, s, d, mib)
		write(t, b, data, 0, 1000)
		time.Sleep(20 * time.Second) // durable
		write(t, b, data, 5000, 1000)
		time.Sleep(1500 * time.Millisecond) // map.boot
		copied := snapshot(t, dir)
		path := filepath.Join(copied, "sha256", d.Encoded(), "map.boot")
		if err := store.RewriteBoot(path); err != nil {
			t.Fatal(err)
		}
		other := open(t, copied, store.Config{})
		if got := checkHeld(t, openBlob(t, other, d, mib), data); got != 1000 {
			t.Errorf("%d bytes, want 1000", got)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("map.boot: %v", err)
		}
		closeAll(t, other, b, s)
	})
}
