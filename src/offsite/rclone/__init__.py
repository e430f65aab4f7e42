"""One provider behind one rclone: started, asked, watched, explained."""
