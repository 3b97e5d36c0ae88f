package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
	"github.com/dfsnapshotter/dfsnapshotter/p2p"
)

func cacheExport() *cobra.Command {
	var at agentFlag
	var output string
	var quiet bool
	cmd := &cobra.Command{
		Use: "export DIGEST", Short: "Take a blob out of the cache into a file",
		Long: `The blob must be there as a whole. It is compared with its digest once more, and FILE
appears when that was right. Nothing is fetched: that is "dfget oci://…".`,
		Args: daemon.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := named(cmd.Context(), at, args[0])
			if err != nil {
				return err
			}
			d := &download{output: or(output, k.Digest.Encoded()), out: cmd.OutOrStdout(), log: cmd.ErrOrStderr()}
			if terminal.Is(d.log) && !quiet {
				d.show.To = d.log
			}
			defer d.show.Show("")
			return exit(d.export(cmd.Context(), at, k))
		},
	}
	at.complete(cmd)
	cmd.Flags().StringVarP(&output, "output", "O", "", `where to put it; "-" for the standard output (default: here, by its digest)`)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

// export writes a blob of the cache to where the download is to be.
func (d *download) export(ctx context.Context, at agentFlag, k agent.Kept) (err error) {
	to, err := d.target()
	if err != nil {
		return err
	}
	var want digest.Digest
	if !p2p.IsName(k.Digest) { // what has no digest cannot be compared with it
		want = k.Digest
	}
	p, err := openPart(to, d.out, want)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.restart(); err != nil {
		return err
	}
	body, err := at.do(ctx, http.MethodGet, blobPath(k.Digest, "/content"), nil, 0)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was only read
	d.show.name = path.Base(to)
	d.show.begin(0, k.Size)
	if err := d.copyAll(ctx, p, body); err != nil {
		return err
	}
	if p.size != k.Size {
		return fmt.Errorf("%w: %d bytes came of %d", agent.ErrCut, p.size, k.Size)
	}
	if err := d.match(p); err != nil {
		return errors.Join(err, p.restart())
	}
	return p.commit()
}

// copyAll puts what r has into p.
func (d *download) copyAll(ctx context.Context, p *part, r io.Reader) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := d.put(ctx, p, buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", agent.ErrCut, err)
		}
	}
}
