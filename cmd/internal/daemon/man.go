package daemon

import (
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// ManCommand writes the man pages of a program, for those who make packages. Its
// commands are in a section: 1 for everyone's, 8 for the administrator's.
func ManCommand(section int) *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the man pages of this program and its subcommands into a folder", Hidden: true,
		Args: Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // the date is that of SOURCE_DATE_EPOCH, if it is set
			header := &doc.GenManHeader{Section: strconv.Itoa(section), Source: root.Name() + " " + root.Version, Manual: "dfsnapshotter"}
			return doc.GenManTree(root, header, args[0])
		},
	}
}
