// Command goprog reads all files below a folder from many goroutines while
// others spin, so that the runtime interrupts its threads (SIGURG) all the
// time. It fails on the first error and prints the digest of what it read.
package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	root := os.Args[1]
	var names []string
	if err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, p)
		}
		return err
	}); err != nil {
		fail(err)
	}
	var stop atomic.Bool
	var spinners, readers sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		spinners.Go(func() {
			for n := 0; !stop.Load(); n++ {
				_ = make([]byte, 1+n%4096) // feeds the garbage collector, which interrupts too
			}
		})
	}
	go func() {
		for !stop.Load() {
			runtime.GC()
			time.Sleep(time.Millisecond)
		}
	}()
	sums := make([][32]byte, len(names))
	open := make(chan struct{}, 256) // a container may have 1,024 files open
	for i, name := range names {
		readers.Go(func() {
			open <- struct{}{}
			defer func() { <-open }()
			data, err := os.ReadFile(name)
			if err != nil {
				fail(err)
			}
			sums[i] = sha256.Sum256(data)
		})
	}
	readers.Wait()
	stop.Store(true)
	spinners.Wait()
	all := sha256.New()
	for _, s := range sums {
		all.Write(s[:])
	}
	fmt.Printf("%d %x\n", len(names), all.Sum(nil))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
