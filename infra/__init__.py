"""What a server needs beside the deployments, as files, and the program that brings it there."""
