package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
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

// TestHugeHeap: what the heap grows by afterwards comes in huge pages.
func TestHugeHeap(t *testing.T) {
	const setting = "/sys/kernel/mm/transparent_hugepage/enabled"
	if mode, err := os.ReadFile(setting); err != nil || strings.Contains(string(mode), "[never]") {
		t.Skipf("%s: %s, %v", setting, mode, err)
	}
	hugeHeap()
	b := make([]byte, hugeSize/2)
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	if got := hugePages(t); got < len(b)/2 {
		t.Errorf("%d bytes are in huge pages, want most of %d", got, len(b))
	}
	runtime.KeepAlive(b)
}

// hugePages returns how many bytes of this process are in huge pages.
func hugePages(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "AnonHugePages:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
