package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/cluster"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/p2p/wire"
)

func tokenCommand(p *daemon.Program[Config]) *cobra.Command {
	cmd := daemon.Group("token", "Join tokens, with which machines become members of a cluster")
	var role, name string
	var once bool
	expires := Duration{time.Hour}
	create := &cobra.Command{
		Use: "create --role ROLE", Short: "Make a join token and print it", Args: daemon.NoArgs,
		Long: `Makes a join token in the database that the configuration file names, and prints
it; nothing shows it again. Put it into /etc/dfsnapshotter/join-token on the
machine. Run this on a manager's machine, as the user that the manager runs as.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.Config()
			if err != nil {
				return err
			}
			text, err := newJoinToken(cmd.Context(), c, name, store.JoinToken{Role: role, Once: once, Expires: time.Now().Add(expires.Duration)})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		},
	}
	f := create.Flags()
	f.StringVar(&role, "role", "", "what the machine is to be: host, seed or scheduler")
	f.StringVar(&name, "cluster", "", "name of the cluster (default: the one whose scope fits the machine)")
	f.TextVar(&expires, "expires", expires, "for how long it is good")
	f.BoolVar(&once, "once", false, "it is good for one machine")
	cmd.AddCommand(create, writeTokens(p), secretTokens(p))
	return cmd
}

// writeTokens is the command for who cannot copy what is printed.
func writeTokens(p *daemon.Program[Config]) *cobra.Command {
	expires := Duration{time.Hour}
	cmd := &cobra.Command{
		Use: "write FOLDER", Short: "Write a join token for each role into a folder", Args: daemon.Args(cobra.ExactArgs(1)),
		Long: `Makes join tokens as create does, one for each role, and writes them into the
files scheduler, seed and host of a folder, which only this user can read.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.Config()
			if err != nil {
				return err
			}
			for _, role := range tokenRoles {
				text, err := newJoinToken(cmd.Context(), c, "", store.JoinToken{Role: string(role), Expires: time.Now().Add(expires.Duration)})
				if err == nil {
					err = daemon.WriteFile(filepath.Join(args[0], string(role)), []byte(text+"\n"), 0o600)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().TextVar(&expires, "expires", expires, "for how long they are good")
	return cmd
}

// tokenRoles are those of who joins.
var tokenRoles = []wire.Role{wire.RoleScheduler, wire.RoleSeed, wire.RoleHost}

// newJoinToken makes a join token of a cluster.
func newJoinToken(ctx context.Context, c Config, name string, k store.JoinToken) (string, error) {
	if err := cluster.CheckRole(k.Role); err != nil {
		return "", fmt.Errorf("--role: %w", err)
	}
	if d := time.Until(k.Expires); d <= 0 || d > cluster.Life {
		return "", fmt.Errorf("--expires: must be more than 0s, and %s at most", cluster.Life)
	}
	if err := sameUser(c.Database); err != nil {
		return "", err
	}
	db, err := store.Open(ctx, c.Database)
	if err != nil {
		return "", err
	}
	defer db.Close()
	if name != "" {
		found, err := db.ClusterByName(ctx, name)
		if errors.Is(err, store.ErrNotFound) {
			return "", fmt.Errorf("--cluster: there is no cluster %q", name)
		}
		if err != nil {
			return "", err
		}
		k.Cluster = found.ID
	}
	who := "dfmanager token"
	if u, err := user.Current(); err == nil {
		who += " (" + u.Username + ")"
	}
	_, text, err := cluster.NewToken(ctx, db, store.By{Actor: who}, k)
	if errors.Is(err, store.ErrNotFound) {
		return "", errors.New("the database has no cluster yet: start dfmanager first")
	}
	return text, err
}

// sameUser reports a SQLite database that is another user's: files that root
// makes beside it would keep the manager out.
func sameUser(url string) error {
	path, is := strings.CutPrefix(url, "sqlite://")
	if !is {
		return nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no database %s yet: start dfmanager first, or name its configuration file with --config", path)
	}
	if err != nil {
		return err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(s.Uid) == os.Geteuid() {
		return nil
	}
	name := strconv.Itoa(int(s.Uid))
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	return fmt.Errorf("database %s belongs to the user %s: run this as sudo -u %s", path, name, name)
}
