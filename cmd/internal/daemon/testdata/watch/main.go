// Command watch calls RelaxWatch, is busy for half a second, and prints for each of its
// threads the timer slack, and how often it was found asleep for a time.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

func main() {
	if err := daemon.RelaxWatch(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for range 3 { // threads that wait for something else
		go func() {
			var p [2]int
			if err := syscall.Pipe(p[:]); err != nil {
				panic(err)
			}
			_, err := syscall.Read(p[0], make([]byte, 1))
			panic(err)
		}()
	}
	asleep, threads := map[string]int{}, []string{}
	for end := time.Now().Add(time.Second / 2); time.Now().Before(end); {
		threads, _ = filepath.Glob("/proc/self/task/*")
		for _, t := range threads {
			call, _ := os.ReadFile(t + "/syscall")
			if nr, _, _ := strings.Cut(string(call), " "); nr == fmt.Sprint(syscall.SYS_NANOSLEEP) {
				asleep[t]++
			}
		}
	}
	for _, t := range threads {
		slack, err := os.ReadFile(filepath.Join("/proc", filepath.Base(t), "timerslack_ns"))
		if err != nil {
			panic(err)
		}
		fmt.Println(strings.TrimSpace(string(slack)), asleep[t])
	}
}
