// Reads the data directory of a node, stopped or running, as docs/disk_format.md says: checks every entry and
// prints the records that are final, an offset and a value a line. It takes no lock and writes nothing.
//
//	go run ./disk [-all] [-group 1] DATA_DIR
//	go run ./disk -vectors ../../tests/vectors
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"loghouse.example/go/format"
)

const tries = 5 // of a directory that changes while it is read

func main() {
	vectors := flag.String("vectors", "", "check the test vectors in this folder")
	group := flag.Uint("group", 1, "which log")
	all := flag.Bool("all", false, "print also what a new leader may still replace")
	flag.Parse()
	var err error
	if *vectors != "" {
		err = checkVectors(*vectors)
	} else {
		err = run(flag.Arg(0), uint32(*group), *all)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "disk:", err)
		os.Exit(1)
	}
}

func run(path string, group uint32, all bool) error {
	if _, err := os.Stat(filepath.Join(path, "node.new")); err == nil {
		return errors.New("a new cluster is being made of this directory")
	}
	data, err := os.ReadFile(filepath.Join(path, "node"))
	if err != nil {
		return err
	}
	owner, err := decodeNode(data)
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	printed := uint64(0) // the offset behind the last record that was printed
	show := func(entry *format.Entry, isFinal bool) error {
		if entry.Kind != format.Records || !(isFinal || all) || entry.BaseOffset < printed {
			return nil
		}
		printed = entry.BaseOffset + uint64(entry.RecordCount)
		return printRecords(out, entry)
	}
	folder := filepath.Join(path, "logs", strconv.Itoa(int(group)))
	var found report
	for try := 1; ; try++ {
		found, err = readLog(folder, owner.cluster, group, show)
		if err == nil {
			break
		}
		if try == tries {
			return err // it is there again and again: damage
		}
		time.Sleep(200 * time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "node %s of %s: entries %d to %d good, %d records up to offset %d, final up to entry %d\n",
		owner.name, owner.clusterName, found.first, found.last, found.records, found.nextOffset, found.final)
	return nil
}

func printRecords(out *bufio.Writer, entry *format.Entry) error {
	records, err := format.DecodeBatch(entry.Payload, entry.Codec, entry.RecordCount)
	if errors.Is(err, format.ErrCompressed) {
		fmt.Fprintf(os.Stderr, "offset %d: %d records not shown: %v\n", entry.BaseOffset, entry.RecordCount, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("entry %d: %w", entry.Index, err)
	}
	for i, record := range records {
		fmt.Fprintf(out, "%d\t%s\n", entry.BaseOffset+uint64(i), record.Value)
	}
	return nil
}
