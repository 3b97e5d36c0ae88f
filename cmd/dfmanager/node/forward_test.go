package node_test

import (
	"context"
	"io"
	"net"
	"sync"
)

// forward passes connections on until ctx ends, as a load balancer does. The
// result is closed when all have ended.
func forward(ctx context.Context, ln net.Listener, to string) <-chan struct{} {
	done := make(chan struct{})
	var wg sync.WaitGroup
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	go func() {
		defer close(done)
		defer wg.Wait()
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { pass(ctx, c, to) })
		}
	}()
	return done
}

func pass(ctx context.Context, c net.Conn, to string) {
	far, err := net.Dial("tcp", to)
	if err != nil {
		_ = c.Close()
		return
	}
	end := func() { _, _ = c.Close(), far.Close() }
	stop := context.AfterFunc(ctx, end)
	defer stop()
	var wg sync.WaitGroup
	for _, p := range [][2]net.Conn{{c, far}, {far, c}} {
		wg.Go(func() {
			_, _ = io.Copy(p[0], p[1]) // either end may break it
			end()
		})
	}
	wg.Wait()
}
