package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// manCommand writes the man pages, for those who make packages.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the man pages of dfget and its subcommands into a folder", Hidden: true,
		Args: daemon.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // the date is that of SOURCE_DATE_EPOCH, if it is set
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "dfget " + version, Manual: "dfsnapshotter"}, args[0])
		},
	}
}
