package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/agent"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
)

func cacheCommand() *cobra.Command {
	cmd := daemon.Group("cache", "List, remove, keep, bring and take blobs of the agent's cache")
	cmd.Long = `The agent on this host keeps blobs, of which it gives to other hosts: layers, and files
of dfget, by their digests. Files that were asked for without a digest have names that
begin with "url+sha256:", which say nothing of their content.`
	cmd.AddCommand(cacheList(), cacheRemove(), cachePin(), cacheUnpin(), cacheImport(), cacheExport())
	return cmd
}

func cacheList() *cobra.Command {
	var at agentFlag
	var asJSON, pinned bool
	cmd := &cobra.Command{
		Use: "ls [DIGEST...]", Short: "List blobs, all or those whose digests begin so",
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := kept(cmd.Context(), at, args)
			if err != nil {
				return err
			}
			if pinned {
				list = matching(list, func(k agent.Kept) bool { return k.Pinned })
			}
			if asJSON {
				return terminal.JSON(cmd.OutOrStdout(), list)
			}
			return printKept(cmd.OutOrStdout(), list)
		},
	}
	at.complete(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&pinned, "pinned", false, "only those that are pinned")
	return cmd
}

func printKept(w io.Writer, list []agent.Kept) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "DIGEST\tSIZE\tHERE\tLAST USED\tNOTE")
	for _, k := range list {
		part := 100.0
		if k.Size > 0 {
			part = 100 * float64(k.Held) / float64(k.Size)
		}
		var notes []string
		for _, n := range []struct {
			is   bool
			text string
		}{{k.Pinned, "pinned"}, {k.InUse, "in use"}, {!k.Whole, "not verified"}} {
			if n.is {
				notes = append(notes, n.text)
			}
		}
		used := "-"
		if !k.Used.IsZero() {
			used = k.Used.Local().Format(time.DateTime)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%.0f %%\t%s\t%s\n", k.Digest, terminal.Size(k.Size), part, used, strings.Join(notes, ", "))
	}
	return t.Flush()
}

// kept lists the blobs whose digests begin as said; all if nothing is.
func kept(ctx context.Context, at agentFlag, begin []string) ([]agent.Kept, error) {
	var list []agent.Kept
	if err := at.get(ctx, "/v1/cache", &list); err != nil || len(begin) == 0 {
		return list, err
	}
	return matching(list, func(k agent.Kept) bool {
		for _, b := range begin {
			if begins(k.Digest, b) {
				return true
			}
		}
		return false
	}), nil
}

func matching(list []agent.Kept, is func(agent.Kept) bool) []agent.Kept {
	some := []agent.Kept{}
	for _, k := range list {
		if is(k) {
			some = append(some, k)
		}
	}
	return some
}

// begins reports whether a digest begins so, with or without its algorithm.
func begins(d digest.Digest, with string) bool {
	return strings.HasPrefix(string(d), with) || with != "" && strings.HasPrefix(d.Encoded(), with)
}

// shortest is the length of the shortest beginning that names a blob.
const shortest = 4

// named returns the one blob that a digest, or its beginning, names.
func named(ctx context.Context, at agentFlag, name string) (agent.Kept, error) {
	list, err := kept(ctx, at, []string{name})
	switch {
	case err != nil:
		return agent.Kept{}, err
	case len(name) < shortest:
		return agent.Kept{}, fmt.Errorf("%q is too short to name a blob", name)
	case len(list) == 0:
		return agent.Kept{}, daemon.ExitError{Code: exitNotFound, Err: fmt.Errorf("%s is not in the cache", name)}
	case len(list) > 1:
		return agent.Kept{}, fmt.Errorf("%s is the beginning of %d digests", name, len(list))
	}
	return list[0], nil
}

// complete adds the agent's flag, and has the shell complete digests.
func (f *agentFlag) complete(cmd *cobra.Command) {
	f.add(cmd)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, _ []string, begin string) ([]string, cobra.ShellCompDirective) {
		list, err := kept(cmd.Context(), *f, []string{begin})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, k := range list {
			names = append(names, string(k.Digest))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// forBlobs makes a command that does something to each blob that is named. It goes on
// where one fails.
func forBlobs(cmd *cobra.Command, at *agentFlag, do func(ctx context.Context, k agent.Kept) error) *cobra.Command {
	cmd.Args = daemon.Args(cobra.MinimumNArgs(1))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var failed error
		for _, name := range args {
			k, err := named(cmd.Context(), *at, name)
			if err == nil {
				err = do(cmd.Context(), k)
			}
			failed = errors.Join(failed, err)
		}
		return failed
	}
	at.complete(cmd)
	return cmd
}

func blobPath(d digest.Digest, more string) string { return "/v1/cache/" + string(d) + more }

func cacheRemove() *cobra.Command {
	var at agentFlag
	return forBlobs(&cobra.Command{
		Use: "rm DIGEST...", Short: "Remove blobs",
		Long: `A digest may be shortened. What a layer fills from, or somebody reads, stays, and so does
what is pinned. Other hosts keep what they have: a manager removes from all of them.`,
	}, &at, func(ctx context.Context, k agent.Kept) error {
		return at.tell(ctx, http.MethodDelete, blobPath(k.Digest, ""))
	})
}

func cachePin() *cobra.Command {
	return pinning("pin", "Keep blobs, whatever the cache's limit and however long nobody needs them", http.MethodPut)
}

func cacheUnpin() *cobra.Command {
	return pinning("unpin", "Let blobs that were pinned go when room is needed", http.MethodDelete)
}

func pinning(name, short, method string) *cobra.Command {
	var at agentFlag
	return forBlobs(&cobra.Command{Use: name + " DIGEST...", Short: short}, &at, func(ctx context.Context, k agent.Kept) error {
		return at.tell(ctx, method, blobPath(k.Digest, "/pin"))
	})
}
