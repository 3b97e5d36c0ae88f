package main

import (
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestBallast: it is there for the garbage collector, and takes no memory.
func TestBallast(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b, err := newBallast()
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if more := int64(after.NextGC) - int64(before.NextGC); more < ballastSize {
		t.Errorf("the next round of the collector is %d bytes later, want %d", more, ballastSize)
	}
	page := os.Getpagesize()
	if uintptr(unsafe.Pointer(&b[0]))%uintptr(page) != 0 {
		t.Fatal("it does not begin with a page")
	}
	pages := make([]byte, len(b)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for i, p := range pages {
		if p&1 != 0 {
			t.Fatalf("page %d of %d is in memory", i, len(pages))
		}
	}
	runtime.KeepAlive(b)
}
