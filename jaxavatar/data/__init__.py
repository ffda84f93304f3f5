"""What is known of a data set: people, sentences, clips."""
